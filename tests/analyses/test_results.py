from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest

from analyses.results import MEASURES, Picture, RunTable
from landscape.results import Result


def test_a_column_and_its_errors_are_found_by_the_name_of_the_measure(table):
    for j, measure in enumerate(MEASURES):
        np.testing.assert_array_equal(table.column(measure), table.values[:, j])
        np.testing.assert_array_equal(table.error(measure), table.errors[:, j])


def test_groups_stand_in_the_order_of_their_first_run(make_table):
    table = make_table({"z": {"gap": [1, 2]}, "a": {"gap": [3]}})
    assert table.group_names == ["z", "a"]
    assert table.of_group("z").tolist() == [True, True, False]


def test_the_number_of_seeds_is_that_of_the_smallest_group(make_table):
    assert make_table({"z": {"gap": [1, 2, 3]}, "a": {"gap": [3]}}).num_seeds == 1
    assert make_table({"z": {"gap": [1, 2, 3]}, "a": {"gap": [3, 4]}}).num_seeds == 2


def test_means_and_ranges_by_group_are_those_of_numpy(make_table):
    values = {"z": [0.3, -0.5, 0.9], "a": [0.25, 0.75]}
    frame = make_table({group: {"trace": column} for group, column in values.items()}).by_group()
    assert len(frame) == 2 * len(MEASURES)
    for group, column in values.items():
        (row,) = frame[(frame["group"] == group) & (frame["measure"] == "trace")].to_dict("records")
        assert row["mean"] == pytest.approx(np.mean(column), rel=1e-14)
        assert (row["min"], row["max"], row["count"]) == (min(column), max(column), len(column))


def test_the_frame_is_tidy_with_one_row_per_run_and_measure(table):
    frame = table.to_frame()
    assert list(frame.columns) == ["name", "group", "seed", "num_microbatches", "measure", "value", "error"]
    assert len(frame) == table.values.size
    assert not frame.duplicated(["name", "measure"]).any()
    for i, name in enumerate(table.names):
        for j, measure in enumerate(table.measures):
            (row,) = frame[(frame["name"] == name) & (frame["measure"] == measure)].to_dict("records")
            assert (row["value"], row["error"]) == (table.values[i, j], table.errors[i, j])
            assert (row["group"], row["seed"]) == (table.groups[i], table.seeds[i])
            assert row["num_microbatches"] == table.num_microbatches[i]


def test_the_summary_has_every_run_with_every_value_and_error(table):
    runs = table.summary()["runs"]
    assert [run["run"] for run in runs] == table.names.tolist()
    for i, run in enumerate(runs):
        assert (run["group"], run["seed"], run["converged"]) == (table.groups[i], table.seeds[i], table.converged[i])
        for j, measure in enumerate(MEASURES):
            assert run[measure] == {"value": table.values[i, j], "error": table.errors[i, j]}


def test_a_saved_table_is_read_back_whole(table, tmp_path):
    back = Result.load(table.save(tmp_path / "table.npz"))
    assert type(back) is RunTable
    for name in ("names", "groups", "seeds", "num_microbatches", "measures", "values", "errors", "converged"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert back.manifest == table.manifest


def test_the_arrays_of_a_table_are_frozen(table):
    with pytest.raises(ValueError, match="read-only"):
        table.values[0, 0] = 1.0


def test_the_table_of_the_sweep_varies_in_micro_batches_alone(table):
    assert table.varies_in_microbatches_alone


@pytest.mark.parametrize(
    ("groups", "alone"),
    [
        (["SGD", "SAM", "mSAM, 2 micro-batches", "mSAM, 4 micro-batches"], True),
        (["SGD", "ASAM", "mASAM, 2 micro-batches"], True),
        (["SGD"], False),
        (["SGD, lr 0.1", "SAM, lr 0.2"], False),
        (["SGD", "SAM, rho 0.1", "mSAM, 2 micro-batches, rho 0.2"], False),
        (["SGD", "SAM", "mASAM, 2 micro-batches"], False),
    ],
)
def test_micro_batches_alone_vary_where_no_group_is_named_by_anything_else(groups, alone, make_table):
    table = make_table({group: {"gap": [0.1, 0.2]} for group in groups}, counts=True)
    assert table.varies_in_microbatches_alone is alone


def test_two_groups_of_as_many_micro_batches_vary_in_something_else(make_table):
    assert not make_table({"SAM": {"gap": [0.1]}, "ASAM": {"gap": [0.1]}}).varies_in_microbatches_alone


def test_a_picture_is_its_own_data_uri():
    head, content = Picture("title", "caption", b"<svg/>").uri.split(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(content) == b"<svg/>"


def test_a_seed_that_was_run_twice_counts_once(make_table):
    table = make_table({"z": {"gap": [1, 2, 3]}, "a": {"gap": [3, 4]}})
    table = dataclasses.replace(table, seeds=np.array([0, 1, 1, 5, 5]))
    assert table.seeds_of_groups == [2, 1]
    assert table.num_seeds == 1
    assert table.has_repeats
