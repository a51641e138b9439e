"""Settings are checked when they are made, and survive JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from landscape.chance import normals
from landscape.manifest import hash_of_settings
from landscape.perturbations import AdaptiveAscent, GradientAscent
from msam import FreshMasks, RunningStatistics, TrainConfig
from msam.config import LATER
from msam.processes import OneProcess

NUMBERS = ("rho", "lr", "momentum", "weight_decay", "max_grad_norm")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"perturbation": "sma"}, "there is no perturbation 'sma'; there are: none, sam, asam, fsam, "),
        ({"optimizer": "adam"}, "there is no optimizer 'adam'; there are: sgd, adamw"),
        ({"schedule": "linear"}, "there is no schedule 'linear'; there are: constant, cosine"),
        ({"num_microbatches": 0}, "num_microbatches must be at least 1; got 0"),
        ({"num_microbatches": -2}, "num_microbatches must be at least 1; got -2"),
        ({"num_microbatches": 101}, "a batch of 100 examples cannot be split into 101 micro-batches"),
        ({"ball": "l1"}, "there is no ball 'l1'; there are: l2, linf"),
        ({"rho_schedule": "up"}, "there is no rho_schedule 'up'; there are: constant, cosine, rising"),
        ({"batch_norm": "none"}, "there is no batch_norm 'none'; there are: shard, batch, running"),
        ({"precision": "fp8"}, "there is no precision 'fp8'; there are: float32, bf16, fp16"),
        ({"ascent_steps": 0}, "ascent_steps must be at least 1; got 0"),
        ({"device_batch_size": -1}, "device_batch_size must be 0 or more; got -1"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"seed": -1}, "seed must be an integer from 0 on; got -1"),
        ({"seed": 2**63}, "seed must be an integer from 0 on"),
        ({"checkpoint_every": -1}, "checkpoint_every must be 0 or more; got -1"),
        *[
            ({name: value}, f"{name} must be a finite number, zero or more; got {value}")
            for name in NUMBERS
            for value in (-0.1, float("nan"), float("inf"))
        ],
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainConfig(**entry)
    with pytest.raises(ValueError, match=sentence):
        TrainConfig.from_dict(entry)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.0),
        ("epochs", "2"),
        ("epochs", True),
        ("epochs", None),
        ("num_microbatches", [1]),
        ("rho", "0.1"),
        ("rho", False),
        ("lr", None),
        ("task", 3),
        ("optimizer", None),
        ("settings", "model=mlp"),
        ("settings", [["model", "mlp"]]),
    ],
)
def test_a_value_of_another_type_is_refused_when_read_back(name, value):
    with pytest.raises(ValueError, match=f"the config entry {name} must be of type .*; got "):
        TrainConfig.from_dict({name: value})


def test_entries_of_another_version_are_refused_by_name():
    with pytest.raises(ValueError, match="entries this version does not know: colour, shape"):
        TrainConfig.from_dict({"shape": 1, "epochs": 3, "colour": 2})


def test_a_whole_number_will_do_where_a_fraction_may_stand():
    assert TrainConfig.from_dict({"rho": 1, "lr": 2}).rho == 1


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(
            settings={"model": "cnn-bn", "width": 4, "label_noise": 0.1},
            perturbation="asam",
            rho=0.1 + 0.2,
            num_microbatches=3,
            optimizer="adamw",
            lr=1e-300,
            schedule="constant",
            seed=2**63 - 1,
            checkpoint_every=2,
        ),
    ],
)
def test_a_config_survives_json(config):
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dictionary_made_of_a_config_is_a_copy():
    config = TrainConfig(settings={"model": "mlp"})
    config.to_dict()["settings"]["model"] = "cnn-bn"
    assert config.settings == {"model": "mlp"}


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


@pytest.mark.parametrize(
    ("batch_size", "number", "last"), [(8, 3, 2), (100, 51, 50), (49, 2, 1)], ids=["two", "half", "one"]
)
def test_more_microbatches_than_the_last_batch_has_examples_are_refused_before_training(batch_size, number, last):
    config = TrainConfig(settings={"train_examples": 50}, batch_size=batch_size, num_microbatches=number)
    with pytest.raises(ValueError, match=f"would have {last} examples, fewer than the {number} micro-batches; choose"):
        config.load_task()


@pytest.mark.parametrize(("batch_size", "number"), [(8, 2), (25, 25), (100, 50)])
def test_as_many_microbatches_as_the_last_batch_has_examples_are_allowed(batch_size, number):
    config = TrainConfig(settings={"train_examples": 50}, batch_size=batch_size, num_microbatches=number)
    assert len(config.load_task().train) == 50


def test_the_task_is_loaded_with_its_settings_and_its_errors_come_through():
    assert TrainConfig(settings={"hidden": 3}).load_task().model(seed=0)[1].out_features == 3
    with pytest.raises(ValueError, match="there is no task 'digts'; did you mean 'digits'"):
        TrainConfig(task="digts").load_task()


@pytest.mark.parametrize(("name", "kind"), [("sam", GradientAscent), ("asam", AdaptiveAscent)])
def test_the_ascent_has_the_radius_of_the_config(name, kind):
    ascent = TrainConfig(perturbation=name, rho=0.3).ascent()
    assert isinstance(ascent, kind)
    assert ascent.rho == 0.3
    assert TrainConfig(perturbation="none").ascent() is None


@pytest.mark.parametrize("name", ["random", "usam-trace"])
def test_what_a_perturbation_draws_has_the_whole_seed(name, make_net):
    first, second = (TrainConfig(perturbation=name, seed=seed).ascent() for seed in (5, 2**62 + 2**31 + 5))
    assert (first.seed, second.seed) == (5, 2**62 + 2**31 + 5)
    weights = [p.detach() for p in make_net().parameters()]
    drawn = [normals(weights, perturbation.seed, 3) for perturbation in (first, second)]
    assert not torch.equal(drawn[0][0], drawn[1][0])


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_base_optimizer_has_the_settings_of_the_config(name, kind, make_net):
    model = make_net()
    base = TrainConfig(optimizer=name, lr=0.3, momentum=0.7, weight_decay=0.2).base_optimizer(model)
    assert type(base) is kind
    assert (base.defaults["lr"], base.defaults["weight_decay"]) == (0.3, 0.2)
    assert base.defaults.get("momentum", 0.7) == 0.7
    assert len(base.param_groups[0]["params"]) == 4


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "SAM"),
        ({"num_microbatches": 4}, "mSAM"),
        ({"num_microbatches": 4, "perturbation": "asam"}, "mASAM"),
        ({"perturbation": "none", "num_microbatches": 4}, "SGD"),
        ({"rho": 0.0, "optimizer": "adamw"}, "AdamW"),
    ],
)
def test_the_method_is_called_by_its_name(settings, name):
    assert TrainConfig(**settings).method == name


def test_the_optimizer_is_given_all_that_the_config_says(make_net):
    config = TrainConfig(
        num_microbatches=3, max_grad_norm=0.5, device_batch_size=7, batch_norm="running", dropout="fresh", seed=4
    )
    processes, model = OneProcess(), make_net()
    optimizer = config.optimizer_for(model, processes=processes)
    assert (optimizer.num_microbatches, optimizer.max_grad_norm, optimizer.seed) == (3, 0.5, 4)
    assert optimizer.execution.device_batch_size == 7
    assert (type(optimizer.batch_norm), type(optimizer.dropout)) == (RunningStatistics, FreshMasks)
    assert optimizer.processes is processes
    assert optimizer.module is model
    plain = TrainConfig().optimizer_for(model)
    assert (plain.max_grad_norm, plain.execution.device_batch_size) == (None, None)


def test_what_files_know_a_config_by_is_the_same_as_before_an_entry_was_added_and_tells_what_it_changes():
    config = TrainConfig()
    before = {name: value for name, value in config.to_dict().items() if name not in LATER}
    assert config.identity == hash_of_settings(before)
    others = [{"dropout": "fresh"}, {"trainable": "2.*"}, {"deterministic": True}]
    assert others[0].keys() | others[1].keys() | others[2].keys() == LATER.keys()
    assert len({config.identity, *(TrainConfig(**other).identity for other in others)}) == 4
