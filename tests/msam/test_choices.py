"""The names in a config stand for the objects that they should."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import AdaptiveAscent, FriendlyAscent, GradientAscent, Linf, RandomPerturbation, SeveralSteps
from msam import (
    BatchStatistics,
    CentralizedDescent,
    DeterminantDescent,
    FrobeniusDescent,
    RunningStatistics,
    TraceDescent,
    TrainConfig,
    train,
)
from msam.checkpoints import read_state, read_weights, save_state
from msam.choices import OF_ITS_OWN, PERTURBATIONS
from msam.data import Examples
from msam.run import Run
from msam.tasks import Task


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sam", GradientAscent),
        ("asam", AdaptiveAscent),
        ("fsam", FriendlyAscent),
        ("random", RandomPerturbation),
        ("gcsam", CentralizedDescent),
        ("usam-trace", TraceDescent),
        ("usam-frobenius", FrobeniusDescent),
        ("usam-determinant", DeterminantDescent),
    ],
)
def test_each_name_stands_for_its_perturbation_with_the_radius(name, kind):
    made = TrainConfig(perturbation=name, rho=0.3).ascent()
    assert type(made) is kind
    assert made.rho == 0.3


def test_balls_and_steps_of_ascent_are_those_of_the_config():
    made = TrainConfig(perturbation="asam", ball="linf", ascent_steps=3).ascent()
    assert isinstance(made, SeveralSteps)
    assert made.steps == 3
    assert isinstance(made.perturbation.ball, Linf)


@pytest.mark.parametrize("name", OF_ITS_OWN)
@pytest.mark.parametrize("entry", [{"ball": "linf"}, {"ascent_steps": 2}])
def test_what_is_defined_in_no_other_way_is_refused(name, entry):
    with pytest.raises(ValueError, match=f"{name} has no other ball and takes one step of ascent"):
        TrainConfig(perturbation=name, **entry)
    with pytest.raises(ValueError, match="random does not ascend"):
        TrainConfig(perturbation="random", ascent_steps=2)


@pytest.mark.parametrize(("name", "kind"), [("batch", BatchStatistics), ("running", RunningStatistics)])
def test_the_policy_for_batch_norm_is_that_of_the_config(name, kind, make_net):
    model = make_net(torch.float64, nn.BatchNorm1d(5))
    assert type(TrainConfig(batch_norm=name).optimizer_for(model).batch_norm) is kind


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("norm", {"1.weight", "1.bias"}),
        ("all-but-norm", {"0.weight", "0.bias", "3.weight", "3.bias"}),
        ("3.*", {"3.weight", "3.bias"}),
    ],
)
def test_the_perturbed_parameters_are_those_of_the_config(which, names, make_net):
    model = make_net(torch.float64, nn.BatchNorm1d(5))
    perturbed = TrainConfig(perturbed=which).optimizer_for(model).perturbed
    assert {*map(id, perturbed)} == {id(p) for name, p in model.named_parameters() if name in names}


def test_a_pattern_that_matches_nothing_is_refused_before_training():
    with pytest.raises(ValueError, match="no trainable parameter matches 'heed"):
        TrainConfig(perturbed="heed.*").load_task()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_run_of_each_kind_is_resumed_to_the_same_weights(name, toy_task, toy_config, tmp_path):
    config = toy_config(perturbation=name, rho_schedule="rising", epochs=4)
    whole = train(toy_task, config, Run.create(tmp_path / "whole", config))
    halves = Run.create(tmp_path / "halves", config)

    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_task, config, halves, progress=stop)
    train(toy_task, config, halves)
    ours, theirs = read_weights(halves.checkpoint), read_weights(whole.checkpoint)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(torch.isfinite(value).all() for value in theirs.values())


def test_the_radius_follows_its_schedule(toy_task, toy_config, tmp_path):
    config = toy_config(rho_schedule="cosine")
    run = train(toy_task, config, Run.create(tmp_path / "run", config))
    assert read_state(run.state_path)["rho"] == {"steps": 12, "first_rho": 0.05}
    constant = train(toy_task, toy_config(), Run.create(tmp_path / "constant", toy_config()))
    ours, theirs = read_weights(run.checkpoint), read_weights(constant.checkpoint)
    assert any(not torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("entries", "method"),
    [
        ({"perturbation": "none"}, "SGD"),
        ({"num_microbatches": 1}, "SAM"),
        ({"num_microbatches": 4, "perturbation": "asam"}, "mASAM"),
        ({"num_microbatches": 4, "perturbation": "fsam"}, "micro-batch Friendly SAM"),
        ({"num_microbatches": 4, "optimizer": "adamw"}, "mSAM on AdamW"),
    ],
)
def test_the_method_says_what_a_person_would(entries, method):
    assert TrainConfig(**entries).method == method


def test_training_weighs_micro_batches_by_what_the_loss_divides_by(make_net, make_batch, toy_config, tmp_path):
    weights = torch.tensor([1.0, 9.0, 0.2])
    examples = Examples(*make_batch(30, dtype=torch.float32))
    task = Task(
        "weighted", lambda: make_net(torch.float32), nn.CrossEntropyLoss(weight=weights), examples, examples, ""
    )
    runs = []
    for number in (1, 4):
        config = toy_config(perturbation="none", num_microbatches=number, batch_size=30, epochs=2)
        runs.append(train(task, config, Run.create(tmp_path / str(number), config)))
    one, four = (read_weights(run.checkpoint) for run in runs)
    assert all(torch.allclose(one[key], four[key], rtol=1e-4, atol=1e-6) for key in one)
    start = functional.cross_entropy(make_net(torch.float32)(examples.inputs), examples.targets, weight=weights)
    assert runs[1].metrics()[0]["train_loss"] == pytest.approx(start.item(), rel=1e-5)


def test_denominators_for_some_micro_batches_alone_are_refused(make_net, make_batch):
    model = make_net()
    optimizer = dataclasses.replace(TrainConfig(num_microbatches=2, lr=0.1)).optimizer_for(model)
    seen = []

    def closure(batch):
        seen.append(1)
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        return (loss, 3.0) if len(seen) < 3 else loss

    with pytest.raises(ValueError, match="a denominator for some micro-batches and none for others"):
        optimizer.step(closure, make_batch(8))


@pytest.mark.parametrize("execution", ["layerwise", "vectorised", "fastest"])
def test_every_execution_trains_to_the_same_weights_within_rounding(execution, toy_task, toy_config, tmp_path):
    config = toy_config(execution=execution, epochs=5)
    run = train(toy_task, config, Run.create(tmp_path / "run", config))
    plain = train(toy_task, toy_config(epochs=5), Run.create(tmp_path / "plain", toy_config(epochs=5)))
    ours, theirs = read_weights(run.checkpoint), read_weights(plain.checkpoint)
    assert all(torch.allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-5) for key in theirs)


def test_a_run_with_the_fastest_execution_goes_on_with_the_one_it_chose(toy_task, toy_config, tmp_path):
    config = toy_config(execution="fastest", epochs=6)
    run = Run.create(tmp_path / "run", config)

    def stop(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_task, config, run, progress=stop)
    state = read_state(run.state_path)
    assert state["execution"] in ("OneByOne()", "Layerwise()", "Vectorised()")
    state["execution"] = "Layerwise()"
    save_state(state, run.state_path)
    train(toy_task, config, run)
    assert read_state(run.state_path)["execution"] == "Layerwise()"
