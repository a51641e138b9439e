"""What a rescaling of a ReLU network that leaves its function alone does to each measure (Dinh et al. 2017)."""

from __future__ import annotations

import pytest
import torch
from problems import N, classes, normal, ragged
from torch import nn
from torch.nn import functional

from landscape import (
    AdaptiveAscent,
    GGNOperator,
    GradientAscent,
    HessianOperator,
    Linf,
    Objective,
    average_case_sharpness,
    every_tensor,
    fisher_rao_norm,
    keskar_sharpness,
    low_pass_flatness,
    pac_bayes_sigma,
    relative_flatness,
    worst_case_sharpness,
)

X, Y = normal(N, 3), classes(N, 3)
FACTOR = 7.0


def objective(factor):
    """A W1, W2/a."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[2].weight.div_(factor)
    return Objective(model, functional.cross_entropy, ragged(X, Y))


def scaled(ball=None):
    return AdaptiveAscent(0.2, eta=0.0, ball=ball, scaled=every_tensor)


INVARIANT = {
    "worst case, |w|, L2": lambda o: worst_case_sharpness(o, scaled(), microbatch_size=5, steps=8, restarts=2).value,
    "worst case, |w|, Linf": lambda o: worst_case_sharpness(o, scaled(Linf()), microbatch_size=5, steps=8).value,
    "average case, |w|": lambda o: average_case_sharpness(o, scaled(), num_draws=3).value,
    "Fisher-Rao": lambda o: fisher_rao_norm(GGNOperator(o), microbatch_size=5).value,
    "relative flatness": lambda o: relative_flatness(HessianOperator(o), num_probes=18).value,
}
OTHERS = {
    "worst case, L2": lambda o: worst_case_sharpness(o, GradientAscent(0.2), microbatch_size=5, steps=8).value,
    "worst case, |w| + 1": lambda o: (
        worst_case_sharpness(o, AdaptiveAscent(0.2, eta=1.0, scaled=every_tensor), microbatch_size=5, steps=8).value
    ),
    "average case": lambda o: average_case_sharpness(o, GradientAscent(0.2), num_draws=3).value,
    "low pass": lambda o: low_pass_flatness(o, sigma=0.2, num_draws=3).value,
    "PAC-Bayes": lambda o: pac_bayes_sigma(o, target=0.1, num_draws=3).sigma,
    "Keskar": lambda o: keskar_sharpness(o, epsilon=0.05, steps=8).value,
}


def test_the_function_is_the_same():
    one, other = objective(1.0), objective(FACTOR)
    assert torch.allclose(one.model(X), other.model(X), rtol=1e-12)


@pytest.mark.parametrize("name", INVARIANT)
def test_these_do_not_move(name):
    ask = INVARIANT[name]
    assert ask(objective(FACTOR)) == pytest.approx(ask(objective(1.0)), rel=1e-8)
    assert abs(ask(objective(1.0))) > 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_these_move(name):
    ask = OTHERS[name]
    assert abs(ask(objective(FACTOR)) / ask(objective(1.0)) - 1) > 0.2


def test_of_every_single_layer_relative_flatness_does_not_move():
    one, other = (relative_flatness(HessianOperator(objective(factor)), num_probes=18) for factor in (1.0, FACTOR))
    assert other.values == pytest.approx(one.values, rel=1e-9)
