"""What a run was trained on stands in its config, and training goes on, and measurements are made, with that alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from analyses.protocol import Protocol
from analyses.subject import Subject
from msam import Run, train
from msam.data import Examples
from msam.data.fingerprints import same_but_for_rounding
from msam.processes import OneProcess
from msam.trained_on import fingerprints_of, other_data, require_same_data


@pytest.fixture
def begun(toy_task, toy_config, tmp_path):
    """A run that was stopped after two of three epochs."""
    config = toy_config(batch_size=10)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    run = Run.create(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        train(toy_task, config, run, progress=stop)
    return run


def changed(task, split, by=1e-2):
    """The task with one input of a split, or the order of its examples, or the number of its test examples, changed."""
    if split == "order":
        return dataclasses.replace(task, train=task.train.taken(torch.arange(29, -1, -1)))
    if split == "number":
        return dataclasses.replace(task, test=task.test.taken(torch.arange(10)))
    if split == "validation":
        return dataclasses.replace(task, validation=task.test)
    examples = getattr(task, split)
    inputs = examples.inputs.clone()
    inputs[-1, -1] += by
    return dataclasses.replace(task, **{split: Examples(inputs, examples.targets)})


SENTENCES = {
    "train": "its train data were 30 other examples",
    "test": "its test data were 11 other examples",
    "number": "its test data were 11 examples, and are 10",
    "validation": "it had no validation data",
}


def test_the_config_holds_the_data_by_what_measurements_know_them_by(toy_task, begun):
    known = json.loads((begun.path / "config.json").read_text())["data"]
    assert [*known] == ["test", "train"]
    for split, number in (("train", 30), ("test", 11)):
        about = toy_task.objective(toy_task.model(seed=0), split=split, batch_size=7).manifest()["objective"]
        assert (known[split]["examples"], known[split]["content"]) == (number, about["data"])
    assert other_data(begun, toy_task, ordered=True) == []


def test_fingerprints_are_the_same_in_every_version():
    data = Examples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    found = dict(data.fingerprint)
    (sums,) = found.pop("sums")
    assert found == {
        "examples": 3,
        "content": "38b1223f42624318df986d52c46051fc",
        "order": "a88c4d425aba091d330e867549f02968",
        "rest": "dacec5ce7679c8cad5ddd85dd6a08abe",
    }
    assert sums == [pytest.approx(55**0.5), 13.0, 15.0, 3.0, -1.0]


@pytest.mark.parametrize("split", ["train", "test", "number", "validation", "order"])
def test_training_does_not_go_on_with_other_data(split, toy_task, begun):
    told = []

    class Watched(OneProcess):
        def require_all(self, failure, *, device):
            told.append(failure)
            super().require_all(failure, device=device)

    found = (begun.path / "config.json").read_bytes()
    sentence = SENTENCES.get(split, "its train data were in another order")
    with pytest.raises(ValueError, match=rf"{sentence}\. Put the data back as they were, or train anew with --over"):
        train(changed(toy_task, split), begun.config, begun, processes=Watched())
    assert len(told) == 1  # so that no other process waits for this one
    assert isinstance(told[0], ValueError)
    train(toy_task, begun.config, begun)
    assert begun.is_complete
    assert (begun.path / "config.json").read_bytes() == found


@pytest.mark.parametrize("split", ["train", "test", "number", "validation"])
def test_a_measurement_is_of_other_data_only_when_it_is_said_so(split, toy_task, begun):
    task = changed(toy_task, split)
    with pytest.raises(ValueError, match=rf"{SENTENCES[split]}\. Put .* or measure on those of now with --other-data"):
        Subject(begun, Protocol(), task=task)
    about = Subject(begun, Protocol(other_data=True), task=task).about
    assert about == f"random numbers (run was trained on other data: {SENTENCES[split]})"


def test_the_order_of_examples_makes_no_other_data_to_measure(toy_task, begun):
    for other in (True, False):
        about = Subject(begun, Protocol(other_data=other), task=changed(toy_task, "order")).about
        assert about == "random numbers"


def test_a_run_of_an_earlier_version_is_measured_and_gone_on_with_as_before(toy_task, begun):
    file = begun.path / "config.json"
    written = json.loads(file.read_text())
    del written["data"]
    file.write_text(json.dumps(written))
    Subject(begun, Protocol(), task=changed(toy_task, "test"))
    train(changed(toy_task, "test"), begun.config, begun)
    assert begun.is_complete
    assert json.loads(file.read_text()) == written  # what its first epochs were trained on is not known


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_that_differ_by_rounding_are_the_same(split, toy_task, begun):
    task = changed(toy_task, split, by=1e-6)
    assert fingerprints_of(task)[split]["content"] != fingerprints_of(toy_task)[split]["content"]
    Subject(begun, Protocol(), task=task)
    train(task, begun.config, begun)
    assert begun.is_complete


def test_whole_numbers_are_never_rounded_and_examples_have_their_places(toy_task):
    many = toy_task.train.inputs.repeat(200, 1)
    whole = torch.zeros(6000, dtype=torch.long)
    other, swapped = whole.clone(), many.clone()
    other[-1], swapped[[0, 1]] = 1, many[[1, 0]]
    known = Examples(many, whole).fingerprint
    assert same_but_for_rounding(known, Examples(many * (1 + 1e-7), whole).fingerprint)
    assert not same_but_for_rounding(known, Examples(many, other).fingerprint)
    assert not same_but_for_rounding(known, Examples(swapped, whole).fingerprint)
    assert not same_but_for_rounding(known, Examples(many.double(), whole).fingerprint)
    assert not same_but_for_rounding(known, Examples(many[:-1], whole[:-1]).fingerprint)
    assert not same_but_for_rounding(known, Examples((many, many), whole).fingerprint)


FINGERPRINT = {"examples": 3, "content": "x", "order": "x", "rest": "x"}


@pytest.mark.parametrize(
    "data",
    [
        3,
        {"train": 3},
        {"train": FINGERPRINT},
        {"train": {**FINGERPRINT, "sums": [3]}},
        {"train": {**FINGERPRINT, "sums": [[1.0]]}},
        {"train": {**FINGERPRINT, "sums": [["a"] * 5]}},
    ],
)
def test_a_damaged_fingerprint_is_named(data, toy_task, begun):
    file = begun.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": data}))
    with pytest.raises(ValueError, match=r"config.json is not the config of a run: the entry 'data' is no fingerprint"):
        require_same_data(begun, toy_task, way_out="")


def test_a_training_that_is_begun_again_is_of_the_data_of_now(toy_task, toy_config, tmp_path):
    config = toy_config(epochs=1, batch_size=10)

    def stop(done, total):
        raise KeyboardInterrupt

    run = Run.create(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        train(toy_task, config, run, progress=stop)
    task = changed(toy_task, "train")
    train(task, config, run)
    assert other_data(run, task, ordered=True) == []
    assert other_data(run, toy_task) == [SENTENCES["train"]]
