"""Probes: what a task watches in training."""

from __future__ import annotations

import dataclasses

import pytest

from msam import Run, TrainConfig, load_task, train

SETTINGS = {"train_examples": 20, "hidden": 3}


def probing(probe):
    return dataclasses.replace(load_task("digits", SETTINGS), probe=probe)


def test_what_the_probe_finds_is_in_the_metrics_of_every_epoch_also_after_a_resume(tmp_path):
    config = TrainConfig(settings=SETTINGS, epochs=3, batch_size=20)
    task = probing(lambda model: {"norm": model[1].weight.norm()})
    run = train(task, config, Run.create(tmp_path / "run", config))
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["norm"] == pytest.approx(run.load_model(task)[1].weight.norm().item(), rel=1e-6)
    assert len({row["norm"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [
        (lambda model: {"lr": 1.0}, "names 'lr', which training writes itself"),
        (lambda model: 3, "must return numbers by name; it failed with AttributeError"),
        (lambda model: {"a": "much"}, "must return numbers by name; it failed with ValueError: could not convert"),
        (lambda model: {f"a{float(model[1].weight.sum())}": 1.0}, "and others before; name the same every time"),
    ],
)
def test_a_probe_that_makes_no_sense_is_told_of(tmp_path, probe, sentence):
    config = TrainConfig(settings=SETTINGS, epochs=2, batch_size=20)
    with pytest.raises(ValueError, match=sentence):
        train(probing(probe), config, Run.create(tmp_path / "run", config))
