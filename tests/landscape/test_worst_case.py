"""Worst-case sharpness where the maximum over the ball is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, classes, mean_output, normal, problem, quadratic, ragged, symmetric
from scipy.optimize import brentq
from torch import nn

from landscape import (
    AdaptiveAscent,
    GradientAscent,
    Linf,
    Objective,
    SharpnessCurve,
    WorstCaseSharpness,
    every_tensor,
    m_sharpness,
    worst_case_curve,
    worst_case_sharpness,
)

A = symmetric(torch.linspace(-1, 3, 6).double())
SLOPES = normal(N, 6, seed=1)
W = normal(6)
ZERO = torch.zeros(6).double()


def highest_in_l2(A, g, rho):
    """max g'e + e'Ae/2 over ‖e‖ ≤ ρ: e = (μ − A)⁻¹ g on the sphere, μ beyond λ_max (the secular equation)."""
    values, basis = np.linalg.eigh(A.numpy())
    h = basis.T @ g.numpy()
    inside = -h / values
    if values.max() < 0 and np.linalg.norm(inside) <= rho:
        return float(h @ inside + inside @ (values * inside) / 2)
    top = max(values.max(), 0.0)
    mu = brentq(lambda mu: np.linalg.norm(h / (mu - values)) - rho, top + 1e-9, top + 1e6, xtol=1e-14, rtol=1e-14)
    e = h / (mu - values)
    return float(h @ e + e @ (values * e) / 2)


def test_at_a_minimum_of_a_quadratic_it_is_half_the_largest_eigenvalue_times_rho_squared():
    result = worst_case_sharpness(quadratic(A, w=ZERO), GradientAscent(0.3), microbatch_size=N, steps=100)
    assert result.value == pytest.approx(3 * 0.3**2 / 2, rel=1e-6)
    assert result.starts.tolist() == ["random 1"]  # at w there is no slope to climb along
    assert result.lengths == pytest.approx([0.3], rel=1e-9)


@pytest.mark.parametrize("size", [1, 4, N])
@pytest.mark.parametrize("rho", [0.05, 0.5, 4.0])
def test_elsewhere_it_is_the_solution_of_the_secular_equation_of_each_shard(rho, size):
    result = worst_case_sharpness(quadratic(A, w=W, slopes=SLOPES), GradientAscent(rho), microbatch_size=size, steps=60)
    expected = [highest_in_l2(A, A @ W + part.mean(dim=0), rho) for part in SLOPES.split(size)]
    assert np.allclose(result.per_shard, expected, rtol=2e-5)
    assert (result.per_shard <= np.array(expected) * (1 + 1e-9)).all()  # never above the maximum
    assert result.value == pytest.approx(np.average(result.per_shard, weights=result.shard_sizes), rel=1e-12)


def test_twenty_steps_are_within_a_thousandth_there():
    result = worst_case_sharpness(quadratic(A, w=W, slopes=SLOPES), GradientAscent(0.5), microbatch_size=4)
    expected = [highest_in_l2(A, A @ W + part.mean(dim=0), 0.5) for part in SLOPES.split(4)]
    assert np.allclose(result.per_shard, expected, rtol=1e-3)
    one_step = m_sharpness(quadratic(A, w=W, slopes=SLOPES), GradientAscent(0.5), microbatch_size=4)
    assert (result.per_shard > one_step.per_shard).all()


def test_a_maximum_inside_the_ball_is_found_and_its_distance_told():
    hill = -symmetric(torch.linspace(1, 3, 6).double())
    result = worst_case_sharpness(quadratic(hill, w=W), GradientAscent(4.0), microbatch_size=N, steps=100)
    assert result.value == pytest.approx(highest_in_l2(hill, hill @ W, 4.0), rel=1e-5)
    assert result.lengths[0] == pytest.approx(W.norm().item(), rel=1e-2)


def test_in_the_maximum_norm_it_is_that_of_each_coordinate():
    a = torch.tensor([3.0, -2.0, 0.5, 0.0]).double()
    slopes = normal(N, 4, seed=2)
    objective = quadratic(a.diag(), w=normal(4), slopes=slopes)
    result = worst_case_sharpness(objective, GradientAscent(0.4, ball=Linf()), microbatch_size=4, steps=100)
    expected = []
    for part in slopes.split(4):
        g = a * normal(4) + part.mean(dim=0)
        ends = torch.stack([-0.4 * g + 0.08 * a, 0.4 * g + 0.08 * a])
        inside = torch.where(a < 0, -g / a, 0).clamp(-0.4, 0.4)
        expected.append(torch.maximum(ends.amax(dim=0), g * inside + a * inside**2 / 2).sum().item())
    assert np.allclose(result.per_shard, expected, rtol=1e-3)
    assert (result.per_shard <= np.array(expected) + 1e-12).all()


def test_of_a_linear_function_it_is_the_dual_norm_times_rho():
    objective = quadratic(torch.zeros(6, 6).double(), w=W, slopes=SLOPES)
    b = SLOPES.mean(dim=0)
    for ball, expected in ((None, b.norm()), (Linf(), b.abs().sum())):
        result = worst_case_sharpness(objective, GradientAscent(0.3, ball=ball), microbatch_size=N, steps=1)
        assert result.value == pytest.approx(0.3 * expected.item(), rel=1e-12)
    scaled = AdaptiveAscent(0.3, eta=0.0, scaled=every_tensor)
    assert worst_case_sharpness(objective, scaled, microbatch_size=N, steps=1).value == pytest.approx(
        0.3 * (W.abs() * b).norm().item(), rel=1e-12
    )


@pytest.mark.parametrize("ball", [None, Linf()])
def test_scaled_by_the_weights_it_is_the_plain_one_in_other_coordinates(ball):
    c = W.abs()
    scaled = AdaptiveAscent(0.5, eta=0.0, ball=ball, scaled=every_tensor)
    ours = worst_case_sharpness(quadratic(A, w=W, slopes=SLOPES), scaled, microbatch_size=4, steps=15)
    # L(w + c u) for u around w/c has the Hessian CAC and the slopes C b
    other = quadratic(c[:, None] * A * c, w=W / c, slopes=SLOPES * c)
    theirs = worst_case_sharpness(other, GradientAscent(0.5, ball=ball), microbatch_size=4, steps=15)
    assert np.allclose(ours.per_shard, theirs.per_shard, rtol=1e-9)
    assert np.allclose(ours.lengths, theirs.lengths, rtol=1e-9)


class SlopeAndPeak(nn.Module):
    """A slope along the first weight, and a narrow peak on the axis of the second."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2).double())

    def forward(self, shifts):
        x, y = self.w
        return x + 4 * torch.exp(-20 * (x**2 + (y - 1) ** 2)) + shifts


def test_restarts_find_what_the_ascent_from_w_does_not():
    objective = Objective(SlopeAndPeak(), mean_output, [(torch.zeros(2).double(), torch.zeros(2))])
    one, many = (worst_case_sharpness(objective, GradientAscent(1.0), microbatch_size=2, restarts=n) for n in (1, 12))
    assert one.starts.tolist() == ["w"]
    assert one.value == pytest.approx(1.0, abs=1e-4)
    assert many.value == pytest.approx(4.0, abs=0.01)
    assert many.starts[0].startswith("random")
    assert "1 from random" in many.lines()[0].remark


def test_it_is_never_negative_and_zero_where_there_is_nothing_higher():
    hill = -torch.eye(3).double()
    result = worst_case_sharpness(quadratic(hill, w=ZERO[:3]), GradientAscent(1.0), microbatch_size=5, restarts=3)
    assert result.per_shard.tolist() == [0.0, 0.0, 0.0]
    assert set(result.starts.tolist()) == {"none"}
    zero = worst_case_sharpness(quadratic(A, w=W), GradientAscent(0.0), microbatch_size=5)
    assert zero.per_shard.tolist() == [0.0, 0.0, 0.0]


def test_a_point_that_is_not_finite_is_infinitely_high_and_a_model_that_is_not_has_no_rise():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, targets: outputs.exp().mean(), data)
    result = worst_case_sharpness(objective, GradientAscent(1e4), microbatch_size=5)  # exp w
    assert np.isposinf(result.per_shard).all()
    assert result.value == math.inf
    assert math.isnan(result.stderr)
    lost = objective.at(torch.tensor([1e4]).double())
    assert np.isnan(worst_case_sharpness(lost, GradientAscent(0.1), microbatch_size=5).per_shard).all()


def test_over_radii_it_never_falls_and_begins_with_the_point_before():
    objective = problem("tanh_mlp").objective()
    rhos = [0.02, 0.1, 0.5, 0.500001, 2.0]
    curve = worst_case_curve(objective, GradientAscent(1.0), rhos=rhos[::-1], microbatch_size=5, steps=5)
    assert curve.rhos.tolist() == rhos
    assert (np.diff(curve.samples, axis=0) >= 0).all()
    alone = worst_case_sharpness(objective, GradientAscent(0.02), microbatch_size=5, steps=5)
    assert curve.samples[0].tolist() == alone.per_shard.tolist()
    assert curve.values[0] == alone.value
    assert curve.stderrs[0] == alone.stderr
    assert curve.manifest["measurement"]["rho"] == rhos
    assert curve.microbatch_size == 5
    assert (curve.kind, curve.radius) == ("worst-case sharpness", "ρ: bound on ‖ε‖₂")


def test_the_second_radius_begins_where_the_first_has_ended():
    curve = worst_case_curve(
        quadratic(A, w=W, slopes=SLOPES), GradientAscent(1.0), rhos=[0.5, 1.0], microbatch_size=N, steps=1
    )
    g = A @ W + SLOPES.mean(dim=0)
    start = g / g.norm()
    there = start + 2 * (g + A @ start) / (g + A @ start).norm()
    there = there / there.norm()
    rises = [(g @ e + e @ A @ e / 2).item() for e in (start / 2, start, there)]
    assert curve.values.tolist() == pytest.approx([rises[0], max(rises)], rel=1e-12)
    assert max(rises) == rises[2]


def test_every_shard_begins_at_random_points_of_its_own():
    saddle = quadratic(A, w=ZERO)  # the same for all examples, and without a slope
    result = worst_case_sharpness(saddle, GradientAscent(0.5), microbatch_size=5, steps=1)
    assert result.starts.tolist() == ["random 1"] * 3
    assert len(set(result.per_shard.tolist())) == 3


def test_a_grid_of_radii_meets_the_closed_form():
    curve = worst_case_curve(
        quadratic(A, w=W, slopes=SLOPES), GradientAscent(1.0), rhos=[0.05, 0.5, 4.0], microbatch_size=N, steps=60
    )
    expected = [highest_in_l2(A, A @ W + SLOPES.mean(dim=0), rho) for rho in curve.rhos]
    assert np.allclose(curve.values, expected, rtol=2e-5)


def test_it_is_measured_on_the_shards_of_m_sharpness_with_their_weights():
    model, x, y = nn.Linear(3, 3).double(), normal(N, 3), classes(N, 3)
    y[[0, 5]] = -100
    y[8:12] = -100
    objective = Objective(model, nn.CrossEntropyLoss(), ragged(x, y))
    ours, theirs = (
        ask(objective, GradientAscent(0.1), microbatch_size=4) for ask in (worst_case_sharpness, m_sharpness)
    )
    assert ours.denominators.tolist() == theirs.denominators.tolist() == [3, 3, 1]
    assert ours.manifest["shards"] == theirs.manifest["shards"]
    assert ours.value == pytest.approx(np.average(ours.per_shard, weights=[3, 3, 1]), rel=1e-12)


def test_the_model_is_left_alone_and_the_result_is_kept(tmp_path):
    given = problem("conv_batch_norm")
    before = {name: part.clone() for name, part in given.model.state_dict().items()}
    result = worst_case_sharpness(given.objective(), GradientAscent(0.1), microbatch_size=6, steps=3, restarts=2)
    assert all(torch.equal(part, before[name]) for name, part in given.model.state_dict().items())
    assert result.manifest["measurement"] == {
        "name": "worst_case_sharpness",
        "microbatch_size": 6,
        "steps": 3,
        "restarts": 2,
        "seed": 0,
        "perturbation": "GradientAscent",
        "rho": 0.1,
    }
    assert WorstCaseSharpness.load(result.save(tmp_path / "a.npz")) == result
    assert result.to_frame().columns.tolist() == ["shard", "rise", "examples", "denominator", "start", "length"]
    curve = SharpnessCurve.of([result])
    assert SharpnessCurve.load(curve.save(tmp_path / "b.npz")) == curve


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"microbatch_size": 0}, f"a shard must have 1 to {N} examples"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        worst_case_sharpness(quadratic(A), GradientAscent(0.1), **{"microbatch_size": 4} | change)


@pytest.mark.parametrize("rhos", [[], [0.1, 0.1], [-0.1], [math.inf], [math.nan]])
def test_radii_that_are_none_are_refused(rhos):
    with pytest.raises(ValueError, match="rhos must be one or more different numbers"):
        worst_case_curve(quadratic(A), GradientAscent(0.1), rhos=rhos, microbatch_size=4)


def test_a_curve_of_results_that_differ_in_more_than_their_radius_is_refused():
    one = m_sharpness(quadratic(A), GradientAscent(0.1), microbatch_size=4)
    two = m_sharpness(quadratic(A), GradientAscent(0.2), microbatch_size=5)
    with pytest.raises(ValueError, match=r"differ in their radius alone; they differ in measurement\.microbatch_size"):
        SharpnessCurve.of([one, two])
    with pytest.raises(ValueError, match="must have different radii"):
        SharpnessCurve.of([one, one])
    other = m_sharpness(quadratic(A, w=2 * W), GradientAscent(0.2), microbatch_size=4)
    with pytest.raises(ValueError, match="their kinds or weights"):
        SharpnessCurve.of([one, other])
