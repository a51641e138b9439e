"""The course of descent on one weight, against its steps; on many, with micro-batches, see data/test_kernel.py."""

from __future__ import annotations

import pytest
import torch

from msam.linear_course import LinearCourse


@pytest.mark.parametrize("lr", [0.01, 0.2, 0.45])  # ηH = 0.04, 0.8, 1.8
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_slow_quick_and_alternating_steps_are_those_of_descent(lr, steps):
    course, weight = LinearCourse(torch.tensor([[2.0]]).double(), lr=lr, rho=0.0), 0.0
    for _ in range(steps):
        weight -= lr * (4 * weight - 2)  # of ½ (2 w − 1)²
    assert float(course.weights(steps)) == pytest.approx(weight, rel=1e-13)


def test_a_slope_of_almost_nothing_loses_no_digits():
    course = LinearCourse(torch.tensor([[1e-6]]).double(), lr=0.1, rho=0.0)
    assert float(course.weights(3)) == pytest.approx(3e-7, rel=1e-11)
