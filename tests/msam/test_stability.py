"""The stability threshold: the closed form against descent itself, and where there is none."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from msam import TrainConfig
from msam.stability import learning_rates, thresholds

GD = TrainConfig(perturbation="none", momentum=0.0, batch_size=100, lr=0.1, schedule="constant", epochs=4)
LINEAR = nn.Linear(1, 1)


def of(config, *, model=LINEAR, num_examples=100, split="train"):
    rates = learning_rates(config, np.arange(config.epochs + 1), num_examples=num_examples)
    return thresholds(config, rates, model=model, num_examples=num_examples, split=split)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_descent_on_a_quadratic_shrinks_below_the_threshold_and_grows_above_it(momentum, weight_decay):
    config = dataclasses.replace(GD, momentum=momentum, weight_decay=weight_decay)
    limit = of(config)[0][0]
    assert limit == pytest.approx((2 + 2 * momentum) / 0.1 - weight_decay)
    for curvature, grows in ((0.98 * limit, False), (1.02 * limit, True)):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.ones_(model.weight)
        optimizer = config.base_optimizer(model)
        for _ in range(2000):
            optimizer.zero_grad()
            (curvature / 2 * model.weight.square().sum()).backward()
            optimizer.step()
            if model.weight.abs().item() > 1e6:
                break
        assert (model.weight.abs().item() > 1e3) is grows
        assert (model.weight.abs().item() < 1e-3) is not grows


def test_learning_rates_are_those_of_the_step_that_led_to_the_epoch():
    config = dataclasses.replace(GD, schedule="cosine", batch_size=30)  # four steps an epoch, the last of ten
    rates = learning_rates(config, np.arange(5), num_examples=100)
    model = nn.Linear(1, 1)
    optimizer = config.base_optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / 16)))
    seen = [schedule.get_last_lr()[0]]
    for step in range(16):
        used = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        if step % 4 == 3:
            seen.append(used)
    np.testing.assert_allclose(rates, seen, rtol=1e-12)
    assert (np.diff(of(config)[0]) > 0).all()


def test_the_words_say_what_the_threshold_is():
    assert of(GD)[1] == "2/lr: where full-batch descent becomes unstable"
    words = of(dataclasses.replace(GD, momentum=0.9, weight_decay=0.01, batch_size=32))[1]
    assert words == (
        "(2 + 2β)/lr with momentum β = 0.9 − weight decay 0.01: where full-batch descent becomes unstable; "
        "batches of 32 are noisy, and stay below it"
    )


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({"optimizer": "adamw"}, {}, "adamw rescales each step"),
        ({"perturbation": "sam", "num_microbatches": 4}, {}, "mSAM descends along gradients elsewhere"),
        ({"max_grad_norm": 1.0}, {}, "gradients were clipped"),
        ({"lr": 0.0}, {}, "the learning rate is zero"),
        ({}, {"split": "test"}, "the test loss is not what was minimised"),
        ({}, {"model": nn.Sequential(nn.BatchNorm1d(2))}, "BatchNorm1d makes the loss in training another"),
        ({}, {"model": nn.Sequential(nn.Dropout(0.1))}, "Dropout makes the loss in training another"),
    ],
)
def test_where_it_means_nothing_there_is_none_and_the_reason(changes, more, why):
    limits, words = of(dataclasses.replace(GD, **changes), **more)
    assert np.isnan(limits).all()
    assert words.startswith("no stability threshold is drawn: ")
    assert why in words


def test_perturbations_of_no_radius_and_dropout_of_none_are_descent():
    assert np.isfinite(of(dataclasses.replace(GD, perturbation="sam", rho=0.0))[0]).all()
    assert np.isfinite(of(GD, model=nn.Sequential(nn.Dropout(0.0)))[0]).all()
