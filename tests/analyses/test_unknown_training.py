"""Weights of which no training is known: a table leaves it open, and sentences say so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analyses import words
from analyses.along_training import kept_checkpoints
from analyses.comparison import group_names
from analyses.results import UNKNOWN, RunTable, differ_in_microbatches_alone
from figures.comparison import _shifts
from figures.report import _chosen
from msam import Run, TrainConfig
from msam.adopted import Adopted


def adopted(file, **entries):
    entries = {"task": "digits", "settings": {"hidden": 8}, "sha256": "0" * 64, "key": ""} | entries
    return Adopted(file=file, **entries)


@pytest.fixture
def table(make_table):
    """SGD with two seeds, and weights from a file."""
    made = make_table({"SGD": {"trace": [1.0, 2.0]}, "weights from b.pt": {"trace": [3.0]}}, counts=True)
    numbers = {"seeds": [0, 1, UNKNOWN], "num_microbatches": [0, 0, UNKNOWN]}
    return dataclasses.replace(made, **{name: np.array(values) for name, values in numbers.items()})


def test_seed_and_micro_batches_are_left_open(table, tmp_path):
    rows = table.summary()["runs"]
    assert [(row["seed"], row["num_microbatches"]) for row in rows] == [(0, 0), (1, 0), (None, None)]
    frame = table.to_frame()
    assert frame["seed"].isna().sum() == frame["num_microbatches"].isna().sum() == len(table.measures)
    assert set(frame["seed"].dropna()) == {0, 1}
    table.save(tmp_path / "a.npz")
    assert RunTable.load(tmp_path / "a.npz").of_unknown_training.tolist() == [False, False, True]


def test_the_seeds_that_are_known_are_counted(table):
    (first, *_), every = words.what_it_does_not_show(table), " ".join(words.what_it_does_not_show(table))
    assert first.startswith("The way of training that is known was run with 2 seeds. The ranges are")
    assert "Nothing is known of how run-03 was trained: whether on this training set, and whether the test" in every


def test_of_weights_alone_no_seed_is_counted(table):
    alone = dataclasses.replace(table, seeds=np.full(3, UNKNOWN), groups=np.array(["a", "b", "c"]))
    (first, *_), every = words.what_it_does_not_show(alone), " ".join(words.what_it_does_not_show(alone))
    assert first == "Of each way of training there is one checkpoint; what another seed would change is not known."
    assert "how run-01, run-02, run-03 were trained" in every


def test_a_table_of_trained_runs_says_nothing_of_it(make_table):
    every = " ".join(words.what_it_does_not_show(make_table({"SGD": {"trace": [1.0]}, "SAM": {"trace": [2.0]}})))
    assert "Nothing is known" not in every
    assert "that is known" not in every


def test_pictures_name_the_seeds_that_are_known_and_put_the_others_in_the_middle(table):
    assert _chosen(table) == "One run of each way of training, seed 0. "
    assert _shifts(table).tolist() == [-0.15, 0.15, 0.0]


def test_an_unknown_number_of_micro_batches_is_none_that_runs_differ_in():
    assert differ_in_microbatches_alone(["SAM", "mSAM, 2 micro-batches"], [1, 2])
    assert not differ_in_microbatches_alone(["SAM", "mSAM, 2 micro-batches", "weights from b.pt"], [1, 2, UNKNOWN])


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        ([adopted("/x/b.pt"), TrainConfig(perturbation="none", settings={"hidden": 8})], ["weights from b.pt", "SGD"]),
        ([adopted("/x/b.pt"), adopted("/x/b.pt", key="ema")], ["weights from b.pt", "weights from b.pt:ema"]),
        ([adopted("/x/b.pt"), adopted("/y/b.pt")], ["weights from /x/b.pt", "weights from /y/b.pt"]),
        (
            [adopted("/x/b.pt"), adopted("/x/b.pt", sha256="1" * 64)],
            [f"weights from /x/b.pt ({digit * 12})" for digit in "01"],
        ),
        (
            [adopted("/x/b.pt"), adopted("/x/c.pt", settings={"hidden": 9})],
            ["weights from b.pt, hidden 8", "weights from c.pt, hidden 9"],
        ),
    ],
)
def test_groups_are_named_by_files(configs, names):
    assert group_names(configs) == names


def test_there_is_no_course_of_a_training(tmp_path):
    run = Run(tmp_path / "b-msam", adopted("/x/b.pt"))
    with pytest.raises(
        ValueError, match=r"nothing is known of how .*b-msam was trained, as its weights come from /x/b"
    ):
        kept_checkpoints(run)
