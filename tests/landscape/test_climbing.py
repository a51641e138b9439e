"""The projected ascent, against the algorithm written out by hand in flat vectors."""

from __future__ import annotations

import math

import pytest
import torch
from problems import normal, symmetric

from landscape import L2, AdaptiveAscent, GradientAscent, Linf, RandomPerturbation, SeveralSteps, every_tensor
from landscape.climbing import Point, checkpoints, climb, random_start, require_climbing, require_counts

A = symmetric(torch.linspace(-2, 5, 6).double())
B = normal(6, seed=1)
W = normal(6, seed=2)


def by_hand(f, grad, start, *, rho, c, steps, p):
    """Algorithm 1 of Croce and Hein 2020, for u = ε/c in the unit coordinates of the ball; all points, best loss."""

    def project(u):
        return u.clamp(-rho, rho) if p == math.inf else u * min(1.0, rho / max(float(u.norm()), 1e-300))

    def direction(u):
        g = c * grad(c * u)
        return g.sign() if p == math.inf else g / g.norm()

    marks, before, now = [], 0.0, 0.22
    while now <= 1:
        marks.append(math.ceil(round(now * steps, 9)))
        before, now = now, now + max(now - before - 0.03, 0.06)
    points = [start / c]
    losses = [f(c * points[0])]
    top, best = losses[0], points[0]
    eta, history = 2 * rho, {0: (2 * rho, losses[0])}
    last = 0
    u, previous = points[0], points[0]
    climbed = []
    etas = []
    for k in range(1, steps + 1):
        etas.append(eta)
        z = project(u + eta * direction(u))
        new = z if k == 1 else project(u + 0.75 * (z - u) + 0.25 * (u - previous))
        climbed.append(f(c * new) > f(c * u))
        if f(c * new) > top:
            top, best = f(c * new), new
        points.append(new)
        previous, u = u, new
        if k in marks:
            one = sum(climbed[last:k]) < 0.75 * (k - last)
            two = history[last] == (eta, top)
            history[k], last = (eta, top), k
            if one or two:
                eta, u = eta / 2, best
    return points, top, etas


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30])
@pytest.mark.parametrize("ball", [L2(), Linf()], ids=repr)
@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_the_published_algorithm_step_by_step(ball, scaled, steps):
    c = W.abs() if scaled else torch.ones(6).double()
    ascent = AdaptiveAscent(0.7, eta=0.0, ball=ball, scaled=every_tensor) if scaled else GradientAscent(0.7, ball=ball)

    def f(e):
        return (((W + e) @ A @ (W + e)) / 2 + B @ (W + e) + torch.sin(5 * (W + e)).sum()).item()

    def grad(e):
        return A @ (W + e) + B + 5 * torch.cos(5 * (W + e))

    visited = []

    def probe(e, with_gradient):
        visited.append(e[0])
        return Point(e, f(e[0]), [grad(e[0])] if with_gradient else None)

    start = torch.zeros(6).double()
    found = climb(probe, probe([start], True), ascent, ascent.scales([W]), steps=steps)
    points, top, etas = by_hand(f, grad, start, rho=0.7, c=c, steps=steps, p=math.inf if isinstance(ball, Linf) else 2)
    assert len(visited) == steps + 1
    for ours, theirs in zip(visited, points, strict=True):
        assert torch.allclose(ours, c * theirs, rtol=1e-10, atol=1e-12)
    assert found.loss == pytest.approx(top, rel=1e-12)
    assert f(found.epsilon[0]) == found.loss
    assert steps < 30 or etas[-1] < etas[0]  # it has been halved


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99, 100]
    assert checkpoints(1) == [1]


def test_the_last_point_needs_no_gradient():
    asked = []

    def probe(e, with_gradient):
        asked.append(with_gradient)
        return Point(e, 0.0, [torch.ones(2)] if with_gradient else None)

    climb(probe, Point([torch.zeros(2)], 0.0, [torch.ones(2)]), GradientAscent(1.0), None, steps=3)
    assert asked == [True, True, False]


@pytest.mark.parametrize("high", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_the_highest_and_the_end(high):
    losses = iter([1.0, high])
    climbed = climb(
        lambda e, g: Point(e, next(losses), [torch.ones(2)]),
        Point([torch.zeros(2)], 0.0, [torch.ones(2)]),
        GradientAscent(1.0),
        None,
        steps=9,
    )
    assert climbed.is_infinitely_high


def test_a_loss_of_minus_infinity_is_no_rise():
    start = Point([torch.zeros(2)], 0.0, [torch.ones(2)])
    lost = torch.full((2,), math.nan)
    assert climb(lambda e, g: Point(e, -math.inf, [lost]), start, GradientAscent(1.0), None, steps=9) is start


def test_steps_that_climb_below_the_highest_point_are_halved_from_there():
    losses = iter(range(1, 21))
    visited = []

    def probe(e, with_gradient):
        visited.append(e[0].tolist())
        return Point(e, float(next(losses)), [torch.tensor([1.0, 0.0])])

    start = Point([torch.zeros(2)], 10.0, [torch.tensor([1.0, 0.0])])
    climb(probe, start, GradientAscent(1.0), None, steps=20)
    assert visited[:5] == [[1.0, 0.0]] * 5  # four of five have climbed, but none above the start
    assert visited[5] == [0.5, 0.0]  # 0.75 of a step of 1 from the start, less 0.25 of the way back to it


def test_a_step_climbs_when_it_is_higher_than_the_step_before_and_not_than_the_highest():
    losses = iter([5.0, 6.0, 7.0, 8.0, 11.0, *range(12, 27)])
    visited = []

    def probe(e, with_gradient):
        visited.append(e[0].tolist())
        return Point(e, float(next(losses)), [torch.tensor([0.0, 1.0] if len(visited) == 5 else [1.0, 0.0])])

    climb(probe, Point([torch.zeros(2)], 10.0, [torch.tensor([1.0, 0.0])]), GradientAscent(1.0), None, steps=20)
    ahead = torch.tensor([1.0, 2.0]) / 5**0.5  # a step of 2 ρ from (1, 0) towards (0, 1), on the ball again
    expected = 0.75 * ahead + 0.25 * torch.tensor([1.0, 0.0])
    assert visited[5] == pytest.approx(expected.tolist())  # four of five have climbed, and the step is not halved


def test_a_gradient_that_is_not_finite_leads_nowhere_and_is_no_rise():
    start = Point([torch.zeros(2)], 0.5, [torch.tensor([1.0, math.inf])])
    assert climb(lambda e, g: 1 / 0, start, GradientAscent(1.0), None, steps=5) is start


@pytest.mark.parametrize(("ball", "length"), [(L2(), 2), (Linf(), math.inf)])
def test_random_starts_lie_on_the_surface_of_the_scaled_ball_and_depend_on_all_numbers(ball, length):
    ascent = AdaptiveAscent(0.3, eta=0.1, ball=ball, scaled=every_tensor)
    scales = ascent.scales([W])
    starts = [random_start(ascent, scales, [W], *numbers)[0] for numbers in ((0, 1), (0, 2), (1, 1), (0, 1))]
    for start in starts:
        assert torch.linalg.vector_norm(start / scales[0], ord=length).item() == pytest.approx(0.3)
    assert torch.equal(starts[0], starts[3])
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("other", [RandomPerturbation(0.1), SeveralSteps(GradientAscent(0.1), steps=2), 0.1])
def test_what_does_not_climb_by_gradients_is_refused(other):
    with pytest.raises(TypeError, match="ascent must be one by gradients"):
        require_climbing(other)


def test_counts_below_one_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        require_counts(0, 1)
    with pytest.raises(ValueError, match="restarts must be at least 1; got 0"):
        require_counts(1, 0)
