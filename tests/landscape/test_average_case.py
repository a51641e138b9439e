"""Means over noise in the weights: average-case sharpness, low-pass flatness, the PAC-Bayes sigma."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, classes, normal, problem, quadratic, ragged, symmetric
from torch import nn

from landscape import (
    AdaptiveAscent,
    AverageCaseSharpness,
    GradientAscent,
    Linf,
    LowPassFlatness,
    Objective,
    PacBayesSigma,
    RandomPerturbation,
    SharpnessCurve,
    accuracy,
    average_case_curve,
    average_case_sharpness,
    every_tensor,
    low_pass_flatness,
    pac_bayes_sigma,
)
from landscape.chance import normals

A = symmetric(torch.linspace(-1, 3, 6).double())
SLOPES = normal(N, 6, seed=1)
W = normal(6)
RHO = 0.3
SCALED = AdaptiveAscent(RHO, eta=0.0, scaled=every_tensor)


def draws(count, seed=0):
    return torch.stack([normals([W], seed, k)[0] for k in range(count)])


def test_on_a_quadratic_every_pair_is_the_quadratic_form_of_its_draw_whatever_the_slope():
    result = average_case_sharpness(quadratic(A, w=W, slopes=SLOPES), GradientAscent(RHO), num_draws=7)
    z = draws(7)
    expected = RHO**2 * (z @ A * z).sum(dim=1) / 2
    assert np.allclose(result.samples, expected, rtol=1e-9, atol=1e-12)
    assert result.value == pytest.approx(expected.mean().item(), rel=1e-9)
    assert result.stderr == pytest.approx(expected.std().item() / math.sqrt(7), rel=1e-9)
    scaled = average_case_sharpness(quadratic(A, w=W, slopes=SLOPES), SCALED, num_draws=7)
    u = z * W.abs()
    assert np.allclose(scaled.samples, RHO**2 * (u @ A * u).sum(dim=1) / 2, rtol=1e-9, atol=1e-12)


def test_its_interval_holds_half_of_rho_squared_times_the_trace_as_often_as_it_says():
    objective = quadratic(A + 2 * torch.eye(6).double(), w=W)
    truth = RHO**2 * (A.trace().item() + 12) / 2
    held = 0
    for seed in range(60):
        low, high = average_case_sharpness(objective, GradientAscent(RHO), num_draws=6, seed=seed).interval(0.9)
        held += low <= truth <= high
    assert 46 <= held < 60  # of 54, within three and a half standard deviations


def test_the_standard_deviation_is_that_of_each_weight_and_not_of_the_norm():
    result = average_case_sharpness(quadratic(torch.eye(50).double()), GradientAscent(0.1), num_draws=40)
    assert abs(result.value - 0.1**2 * 50 / 2) < 4 * result.stderr < 0.1


def test_a_grid_has_the_same_draws_at_every_radius():
    objective = problem("tanh_mlp").objective()
    curve = average_case_curve(objective, GradientAscent(1.0), rhos=[0.5, 0.1], num_draws=4, seed=3)
    for rho, samples in zip(curve.rhos, curve.samples, strict=True):
        alone = average_case_sharpness(objective, GradientAscent(float(rho)), num_draws=4, seed=3)
        assert samples.tolist() == alone.samples.tolist()
    assert curve.radius == "ρ: standard deviation of each weight's noise"
    assert curve.microbatch_size is None
    scaled = average_case_curve(objective, SCALED, rhos=[0.1], num_draws=2)
    assert scaled.radius == "ρ: standard deviation of each weight's noise / T, T = |w| + 0"


def test_pairs_are_counted_over_the_whole_grid():
    done = []
    curve = {"rhos": [0.1, 0.2], "num_draws": 3, "progress": lambda *numbers: done.append(numbers)}
    average_case_curve(quadratic(A), GradientAscent(1.0), **curve)
    assert done == [(k, 6) for k in range(1, 7)]
    done.clear()
    low_pass_flatness(quadratic(A), sigma=0.1, num_draws=3, progress=curve["progress"])
    assert done == [(k, 3) for k in range(1, 4)]


def test_the_low_pass_filter_adds_the_loss_at_w():
    objective = quadratic(A, w=W, slopes=SLOPES)
    smooth = low_pass_flatness(objective, sigma=RHO, num_draws=5, seed=2)
    rise = average_case_sharpness(objective, GradientAscent(RHO), num_draws=5, seed=2)
    loss = (W @ A @ W / 2 + SLOPES.mean(dim=0) @ W).item()
    assert smooth.loss == pytest.approx(loss, rel=1e-12)
    assert smooth.sigma == RHO
    assert smooth.samples.tolist() == (rise.loss + rise.samples).tolist()
    assert smooth.value == pytest.approx(loss + rise.value, rel=1e-12)
    assert smooth.stderr == pytest.approx(rise.stderr, rel=1e-9)
    assert smooth.manifest["measurement"] == {"name": "low_pass_flatness", "sigma": RHO, "num_draws": 5, "seed": 2}


def test_both_means_under_noise_say_their_value_interval_and_deviation():
    objective = quadratic(A, w=W, slopes=SLOPES)
    smooth = low_pass_flatness(objective, sigma=RHO, num_draws=5)
    rise = average_case_sharpness(objective, GradientAscent(RHO), num_draws=5)
    for result, name, deviation in ((smooth, "flatness", "sigma"), (rise, "sharpness", "rho")):
        low, high = result.interval()
        found = {name: result.value, "stderr": result.stderr, "low": low, "high": high, deviation: RHO}
        assert result.summary() == found | {"num_draws": 5, "loss": result.loss}
        assert result.lines()[0][:3] == (result.title, result.value, result.stderr)
    remarks = [result.lines()[0].remark for result in (smooth, rise)]
    assert remarks[0] == "standard error over 5 pairs of draws; mean loss under noise of σ = 0.3"
    assert remarks[1] == "standard error over 5 pairs of draws; ρ is the deviation of each weight"


def test_of_a_quadratic_the_sigma_is_the_root_of_the_target_and_its_interval_that_of_the_mean():
    objective = quadratic(A + 2 * torch.eye(6).double(), w=W, slopes=SLOPES)
    result = pac_bayes_sigma(objective, target=0.2, num_draws=9, rtol=1e-6, seed=4)
    z = draws(9, seed=4)
    forms = ((z @ A * z).sum(dim=1) / 2 + z.square().sum(dim=1)).numpy()
    reach = 2.3060041350333704 * forms.std(ddof=1) / 3  # Student's t, 8 degrees of freedom
    assert result.sigma == pytest.approx(math.sqrt(0.2 / forms.mean()), rel=1e-6)
    assert result.low == pytest.approx(math.sqrt(0.2 / (forms.mean() + reach)), rel=1e-6)
    assert result.high == pytest.approx(math.sqrt(0.2 / (forms.mean() - reach)), rel=1e-6)
    assert len(result.sigmas) < 20
    assert (np.diff(result.sigmas) > 0).all()
    assert np.allclose(result.rises, result.sigmas**2 * forms.mean(), rtol=1e-6)
    assert np.allclose(result.stderrs, result.sigmas**2 * forms.std(ddof=1) / 3, rtol=1e-6)


@pytest.mark.parametrize("target", [1e-6, 1e6])
def test_a_sigma_far_from_the_first_that_is_looked_at_is_found(target):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, targets: outputs.pow(4).mean(), data)  # w⁴, not quadratic, at w = 0
    result = pac_bayes_sigma(objective, target=target, num_draws=2, rtol=1e-6)
    z = torch.stack([normals([torch.zeros(1, 1).double()], 0, k)[0] for k in range(2)])
    assert result.sigma == pytest.approx((target / z.pow(4).mean().item()) ** 0.25, rel=1e-6)


def test_no_sigma_is_borne_by_a_loss_that_never_rises_or_always_too_much():
    flat = quadratic(torch.zeros(6, 6).double(), w=W, slopes=SLOPES)
    result = pac_bayes_sigma(flat, target=0.1, num_draws=2)
    assert (result.sigma, result.low, result.high) == (math.inf, math.inf, math.inf)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    jump = Objective(model, lambda outputs, targets: (outputs**2).mean() + (outputs != 0).double().mean(), data)
    assert pac_bayes_sigma(jump, target=0.1, num_draws=2).sigma == 0


def test_by_accuracy_it_is_where_noise_has_cost_the_target():
    x, y = normal(N, 2), torch.zeros(N).long()
    y[x[:, 0] < 0] = 1
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.zero_()
    objective = Objective(model, nn.functional.cross_entropy, ragged(x, y))
    result = pac_bayes_sigma(objective, target=0.1, score=accuracy, num_draws=10, rtol=1e-4)
    assert result.quantity == "accuracy"
    assert result.manifest["measurement"]["quantity"].startswith("one minus accuracy over")

    def lost(sigma):
        wrong = []
        for k in range(10):
            for sign in (1, -1):
                weight, bias = (sign * sigma * part for part in normals(list(model.parameters()), 0, k))
                outputs = x @ (model.weight + weight).T + model.bias + bias
                wrong.append(1 - accuracy(outputs, y).item())
        return np.mean(wrong)

    assert lost(result.sigma * 0.9999) <= 0.1 < lost(result.sigma * 1.0002)
    assert result.low <= result.sigma <= result.high


def test_a_score_is_averaged_over_what_it_says_it_divides_by():
    x, y = normal(N, 3), classes(N, 3)
    y[[0, 1, 2, 5, 10, 11]] = -100
    model, kept = nn.Linear(3, 3).double(), y != -100
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]).double())
    given = Objective(model, loss, ragged(x, y), chunk_size=3)
    whole = Objective(model, nn.functional.cross_entropy, [(x[kept], y[kept])])
    ours = pac_bayes_sigma(given, target=0.05, score=accuracy, num_draws=4)
    theirs = pac_bayes_sigma(whole, target=0.05, score=accuracy, num_draws=4)
    assert ours.sigmas == pytest.approx(theirs.sigmas, rel=1e-6)  # a share may be of single precision
    assert ours.rises == pytest.approx(theirs.rises, rel=1e-6, abs=1e-6)
    assert ours.rises.max() > 0.05
    assert ours.quantity == "accuracy"


def test_losses_that_overflow_are_shown_as_such():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, targets: outputs.exp().mean(), data)
    result = average_case_sharpness(objective, GradientAscent(1e5), num_draws=3)
    assert result.value == math.inf
    assert math.isnan(result.stderr)
    assert 0 < pac_bayes_sigma(objective, target=1.0, num_draws=3).sigma < 100


def test_the_manifest_says_what_rho_is_and_results_are_kept(tmp_path):
    objective = problem("tanh_mlp").objective()
    average = average_case_sharpness(objective, SCALED, num_draws=2, seed=5)
    assert average.manifest["measurement"] == {
        "name": "average_case_sharpness",
        "num_draws": 2,
        "seed": 5,
        "noise": "normal, rho is its standard deviation in each weight, in opposite pairs",
        "perturbation": "AdaptiveAscent",
        "rho": RHO,
        "eta": 0.0,
        "scaled": "every_tensor",
    }
    smooth = low_pass_flatness(objective, sigma=0.1, num_draws=2)
    sigma = pac_bayes_sigma(objective, target=0.1, num_draws=2)
    for result in (average, smooth, sigma, SharpnessCurve.of([average])):
        assert type(result).load(result.save(tmp_path / "a.npz")) == result
        assert result.summary()
        assert result.lines()
        assert len(result.to_frame())
    assert {type(r) for r in (average, smooth, sigma)} == {AverageCaseSharpness, LowPassFlatness, PacBayesSigma}


def test_held_out_data_are_another_objective():
    given = problem("tanh_mlp")
    x, y = normal(7, 3, seed=30), classes(7, 3, seed=31)
    held_out = Objective(given.model, given.loss, [(x[:4], y[:4]), (x[4:], y[4:])], split="test")
    result = average_case_sharpness(held_out, GradientAscent(0.1), num_draws=2)
    assert result.manifest["objective"]["split"] == "test"
    assert result.loss == pytest.approx(given.loss(given.model(x), y).item(), rel=1e-12)


def test_what_makes_no_sense_is_refused():
    objective = quadratic(A)
    with pytest.raises(ValueError, match=r"normal noise has no ball Linf\(\)"):
        average_case_sharpness(objective, GradientAscent(0.1, ball=Linf()))
    with pytest.raises(TypeError, match="ascent must be one by gradients"):
        average_case_sharpness(objective, RandomPerturbation(0.1))
    with pytest.raises(TypeError, match="ascent must be one by gradients"):
        average_case_curve(objective, 0.1, rhos=[0.1])
    with pytest.raises(ValueError, match="num_draws must be at least 2; got 1"):
        average_case_sharpness(objective, GradientAscent(0.1), num_draws=1)
    with pytest.raises(ValueError, match="sigma must be a finite standard deviation"):
        low_pass_flatness(objective, sigma=-1.0)
    for name in ("target", "rtol"):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite; got 0"):
            pac_bayes_sigma(objective, **{name: 0})
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        pac_bayes_sigma(objective, level=1.0)
