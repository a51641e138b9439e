"""The PAC-Bayes sigma where its search has a long way, or none: cliffs, plains, and what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from landscape import Objective, pac_bayes_sigma
from landscape.chance import normals

DRAWS = torch.cat([normals([torch.zeros(1, 1).double()], 0, k)[0] for k in range(4)]).flatten()


def of_one_weight(loss) -> Objective:
    """A loss of the one weight w, at w = 0."""
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, _: loss(outputs).mean(), data)
    return objective.at(torch.zeros(1).double())


def bowl(sigma: float) -> Objective:
    """A quadratic whose rise under the draws is 0.1 at a σ."""
    return of_one_weight(lambda w: (0.1 / DRAWS.square().mean() / sigma**2) * w.square())


@pytest.mark.parametrize("slope", [1.0, 1e-300])
@pytest.mark.parametrize("beyond", [math.inf, math.nan])
def test_a_cliff_is_found_to_all_digits_whatever_the_loss_before_it(slope, beyond):
    cliff = of_one_weight(lambda w: torch.where(w.abs() < 3, slope * w.square(), beyond))
    found = pac_bayes_sigma(cliff, target=100.0, num_draws=4, rtol=1e-6)
    expected = 3 / DRAWS.abs().max().item()
    assert (found.sigma, found.low, found.high) == pytest.approx((expected, expected, expected), rel=1e-6)


@pytest.mark.parametrize("sigma", [1e4, 4e-9])
def test_a_sigma_within_reach_is_found_in_few_evaluations(sigma):
    done = []
    found = pac_bayes_sigma(bowl(sigma), num_draws=4, rtol=1e-6, progress=lambda *numbers: done.append(numbers))
    assert found.sigma == pytest.approx(sigma, rel=1e-6)
    number = len(found.sigmas)
    assert done == [(k, k + 1) for k in range(1, number + 1)]  # each σ once
    assert number <= 40


@pytest.mark.parametrize(("sigma", "said"), [(1e7, math.inf), (1e-11, 0.0)])
def test_one_that_is_a_hundred_million_times_the_first_or_less_is_beyond_reach(sigma, said):
    found = pac_bayes_sigma(bowl(sigma), num_draws=4)
    assert found.sigma == said
    assert len(found.sigmas) < 30


def test_no_tolerance_is_too_small_and_limits_are_numbers():
    exact, small = (pac_bayes_sigma(bowl(1.0), num_draws=4, rtol=rtol).sigma for rtol in (1e-11, 5e-324))
    assert small == pytest.approx(exact, rel=1e-10)
    for name in ("target", "rtol"):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite; got inf"):
            pac_bayes_sigma(bowl(1.0), **{name: math.inf})


@pytest.mark.parametrize(("target", "lost"), [(1e-14, True), (1e-12, False)])
def test_a_target_that_is_lost_in_rounding_is_refused(target, lost):
    level = of_one_weight(lambda w: 7 + w.square())
    if lost:
        with pytest.raises(ValueError, match=r"target must be above the rounding of what rises, 2e-14, .*; got 1e-14"):
            pac_bayes_sigma(level, target=target, num_draws=4)
    else:
        found = pac_bayes_sigma(level, target=target, num_draws=4)
        assert found.low <= found.sigma <= found.high
