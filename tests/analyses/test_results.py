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


def test_the_first_run_of_each_group_is_found(make_table):
    table = make_table({"z": {"gap": [1, 2, 3]}, "a": {"gap": [3]}})
    shuffled = dataclasses.replace(table, groups=np.array(["z", "a", "z", "z"]))
    assert (table.first_runs, shuffled.first_runs) == ([0, 3], [0, 1])


def test_the_error_of_a_difference_in_accuracy_is_paired_and_over_the_means_of_the_groups(make_table):
    runs = {"a": {"test_accuracy": [0.9, 0.8]}, "b": {"test_accuracy": [0.7]}}
    # a'Ca with a = (1/2, 1/2, −1) and C = 0.01² (ρ + (1 − ρ) I) is 0.01² · 1.5 (1 − ρ).
    for correlation in (0.0, 0.5, 1.0):
        difference, error = make_table(runs, correlation=correlation).accuracy_difference("a", "b")
        assert difference == pytest.approx(0.15, rel=1e-12)
        assert error == pytest.approx(0.01 * np.sqrt(1.5 * (1 - correlation)), rel=1e-12, abs=1e-9)


def test_a_table_that_kept_no_covariance_is_read_and_its_error_of_a_difference_is_unknown(make_table, tmp_path):
    table = make_table({"a": {"test_accuracy": [0.9]}, "b": {"test_accuracy": [0.7]}}, correlation=None)
    back = Result.load(table.save(tmp_path / "table.npz"))
    assert back.accuracy_covariance is None
    difference, error = back.accuracy_difference("a", "b")
    assert difference == pytest.approx(0.2)
    assert np.isnan(error)


def test_a_file_of_a_version_without_covariances_is_read(table, tmp_path):
    path = table.save(tmp_path / "table.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "accuracy_covariance"}
    np.savez(path, **arrays)
    assert Result.load(path).accuracy_covariance is None


def test_there_is_a_line_for_every_value_and_an_exact_one_has_no_uncertainty(table):
    lines = table.lines()
    assert len(lines) == table.values.size
    first = dict(zip(MEASURES, lines, strict=False))
    assert first["test_accuracy"].quantity == "run-01: test accuracy (%)"
    assert first["test_accuracy"].value == pytest.approx(100 * table.column("test_accuracy")[0])
    assert first["test_loss"].uncertainty == table.error("test_loss")[0] > 0
    assert first["train_loss"].uncertainty is None


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
    for name in (entry.name for entry in dataclasses.fields(table) if entry.name != "manifest"):
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
        (["SGD", "SAM"], False),
        (["SGD", "mSAM, 2 micro-batches"], False),
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
    assert table.has_repeats
