"""The example of Wen, Ma and Li 2023 (arXiv 2211.05729): what m-sharpness prefers depends on the size of its shards.

L = F₁ x₃² + F₂ x₄² with F₁ > F₂ > 0, functions of x₁ and x₂, has its minima where x₃ = x₄ = 0. The Hessian across is
2 diag(F₁, F₂). The losses of single examples are 2 F₁ x₃² and 2 F₂ x₄². To leading order in ρ the worst case of all
the data rises by ρ² F₁, half of λ_max ρ², and that of single examples by ρ² (F₁ + F₂), half of the trace ρ².
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import mean_output
from torch import nn

from landscape import (
    GradientAscent,
    HessianOperator,
    Objective,
    average_case_sharpness,
    m_sharpness,
    top_eigenvalues,
    trace,
    worst_case_sharpness,
)

RHO = 1e-3
POINTS = [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (-0.5, 0.4), (0.9, -0.7)]


def heights(x):
    """F₁ > F₂ > 0, whose order differs from that of their sum over the points."""
    one = 2 + x[0] ** 2 + 0.1 * x[1]
    return one, 1.5 + 0.4 * torch.tanh(3 * (x[1] - x[0]))


class Valley(nn.Module):
    """The loss of an example: the first or the second term, twice."""

    def __init__(self, place):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([*place, 0.0, 0.0]).double())

    def forward(self, which):
        one, two = heights(self.x)
        return 2 * torch.where(which == 0, one * self.x[2] ** 2, two * self.x[3] ** 2)


def valley(place):
    return Objective(
        Valley(place), mean_output, [(torch.tensor([0, 1, 0]), torch.zeros(3)), (torch.tensor([1]), torch.zeros(1))]
    )


def exact(place):
    one, two = (float(h) for h in heights(torch.tensor(place).double()))
    return one, two


@pytest.fixture(scope="module")
def measured():
    """Worst-case sharpness at each point, of all the data and of single examples."""
    return {
        size: [
            worst_case_sharpness(valley(place), GradientAscent(RHO), microbatch_size=size, steps=60).value
            for place in POINTS
        ]
        for size in (4, 1)
    }


def test_of_all_data_it_is_half_the_largest_eigenvalue_and_of_single_ones_half_the_trace(measured):
    for place, whole, single in zip(POINTS, measured[4], measured[1], strict=True):
        one, two = exact(place)
        assert one > two > 0
        hessian = HessianOperator(valley(place))
        assert top_eigenvalues(hessian, k=1).eigenvalues[0] == pytest.approx(2 * one, rel=1e-6)
        assert trace(hessian, num_probes=4).estimate == pytest.approx(2 * (one + two), rel=1e-9)
        assert whole == pytest.approx(RHO**2 * one, rel=1e-3)
        assert single == pytest.approx(RHO**2 * (one + two), rel=1e-3)


def test_the_sizes_order_the_points_as_the_theory_says(measured):
    ones, twos = np.array([exact(place) for place in POINTS]).T
    assert (np.argsort(ones) != np.argsort(ones + twos)).any()  # or the test would say nothing
    assert np.argsort(measured[4]).tolist() == np.argsort(ones).tolist()
    assert np.argsort(measured[1]).tolist() == np.argsort(ones + twos).tolist()


def test_one_step_of_ascent_beside_the_valley_agrees():
    for place in POINTS:
        one, two = exact(place)
        objective = valley(place)
        beside = objective.weights.clone()
        beside[2:] = torch.tensor([1e-8, 1e-8])  # at the minimum itself there is no gradient to climb along
        rises = {
            size: m_sharpness(objective.at(beside), GradientAscent(RHO), microbatch_size=size).value for size in (1, 4)
        }
        assert rises[1] == pytest.approx(RHO**2 * (one + two), rel=1e-3)
        # one step goes along the gradient and not along the first eigenvector: F₁³ + F₂³ over F₁² + F₂²
        assert rises[4] == pytest.approx(RHO**2 * (one**3 + two**3) / (one**2 + two**2), rel=1e-3)


def test_average_case_sharpness_is_half_the_trace_at_any_size():
    place = POINTS[3]
    found = average_case_sharpness(valley(place), GradientAscent(RHO), num_draws=60)
    assert abs(found.value - RHO**2 * sum(exact(place))) < 4 * found.stderr < RHO**2 * sum(exact(place))
