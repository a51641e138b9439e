"""m-sharpness of perturbations that look more than once, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from problems import N, normal, problem, quadratic, symmetric

from landscape import (
    AdaptiveAscent,
    FriendlyAscent,
    GradientAscent,
    Linf,
    Objective,
    RandomPerturbation,
    SeveralSteps,
    Sharpness,
    SharpnessOverSizes,
    m_sharpness,
    m_sharpness_grid,
)
from landscape.chance import normals
from landscape.manifest import differences

A = symmetric(torch.linspace(-1, 3, 6).double())
SLOPES = normal(N, 6, seed=1)
SPLIT = [part.mean(dim=0) for part in SLOPES.split(4)]
W = normal(6)


def rise(b, e):
    return ((A @ W + b) @ e + e @ A @ e / 2).item()


def measured(perturbation):
    return m_sharpness(quadratic(A, w=W, slopes=SLOPES), perturbation, microbatch_size=4)


def test_in_the_maximum_norm_it_is_the_closed_form():
    expected = [rise(b, 0.2 * (A @ W + b).sign()) for b in SPLIT]
    assert np.allclose(measured(GradientAscent(0.2, ball=Linf())).per_shard, expected, rtol=1e-11)


def test_of_several_steps_it_is_the_loop():
    expected = []
    for b in SPLIT:
        e = torch.zeros(6).double()
        for _ in range(3):
            g = A @ (W + e) + b
            e = e + 0.5 * 0.2 * g / g.norm()
            e = e * min(1, 0.2 / e.norm())
        expected.append(rise(b, e))
    result = measured(SeveralSteps(GradientAscent(0.2), steps=3, step=0.5))
    assert np.allclose(result.per_shard, expected, rtol=1e-11)
    assert result.manifest["measurement"] == {
        "name": "m_sharpness",
        "microbatch_size": 4,
        "perturbation": "GradientAscent",
        "rho": 0.2,
        "steps": 3,
        "step": 0.5,
    }


def test_of_random_perturbations_each_shard_has_its_own_and_no_gradient_is_computed(monkeypatch):
    def refused(self, w):
        raise AssertionError("no gradient is needed")

    objective = quadratic(A, w=W, slopes=SLOPES)
    monkeypatch.setattr(Objective, "loss_and_gradient", refused)
    expected = []
    for k, b in enumerate(SPLIT):
        z = normals([W], 5, k)[0]
        expected.append(rise(b, 0.2 * z / z.norm()))
    result, other = (m_sharpness(objective, RandomPerturbation(0.2, seed=s), microbatch_size=4) for s in (5, 6))
    assert np.allclose(result.per_shard, expected, rtol=1e-10, atol=1e-14)
    assert result.manifest["measurement"]["seed"] == 5
    assert differences(result.manifest, other.manifest) == ["measurement.seed: 5 or 6"]


def test_of_a_friendly_ascent_without_a_momentum_it_is_that_of_sam_and_says_so():
    friendly, sam = measured(FriendlyAscent(0.2)), measured(GradientAscent(0.2))
    assert np.allclose(friendly.per_shard, sam.per_shard, rtol=1e-12)
    assert friendly.manifest["measurement"]["momentum"] == "none, so this is SAM"


@pytest.mark.parametrize(
    "perturbation",
    [
        SeveralSteps(AdaptiveAscent(0.5), steps=2),
        AdaptiveAscent(0.01, ball=Linf()),
        RandomPerturbation(0.1),
        RandomPerturbation(0.01, ball=Linf()),
    ],
    ids=repr,
)
def test_on_a_network_shards_do_not_depend_on_the_batches_they_were_read_in(perturbation):
    given = problem("tanh_mlp")
    whole = Objective(given.model, given.loss, [(given.x, given.y)])
    first = m_sharpness(given.objective(), perturbation, microbatch_size=4)
    second = m_sharpness(whole, perturbation, microbatch_size=4)
    assert np.allclose(first.per_shard, second.per_shard, rtol=1e-11, atol=1e-14)
    assert first.per_shard.any()


def test_denominators_are_kept_and_are_the_weights_of_the_mean(tmp_path):
    result = measured(GradientAscent(0.2))
    assert result.denominators.tolist() == result.shard_sizes.tolist() == [4, 4, 4, 1]
    assert result.value == pytest.approx(np.average(result.per_shard, weights=result.denominators), rel=1e-12)
    again = Sharpness.load(result.save(tmp_path / "sharpness.npz"))
    assert again.denominators.tolist() == [4, 4, 4, 1]
    assert again.to_frame()["denominator"].tolist() == [4, 4, 4, 1]


def test_a_curve_over_sizes_holds_what_each_size_gives_alone(tmp_path):
    objective = quadratic(A, w=W, slopes=SLOPES)
    sizes = [N, 4, 1]
    found = m_sharpness_grid(objective, GradientAscent(0.2), microbatch_sizes=sizes)
    curve = SharpnessOverSizes.of([result for (result,) in found])
    alone = [m_sharpness(objective, GradientAscent(0.2), microbatch_size=size) for size in sorted(sizes)]
    assert curve.microbatch_sizes.tolist() == [1, 4, N]
    np.testing.assert_allclose(curve.values, [result.value for result in alone], rtol=1e-12)
    np.testing.assert_allclose(curve.stderrs, [result.stderr for result in alone], rtol=1e-9)
    assert curve.num_shards.tolist() == [N, -(-N // 4), 1]
    assert (curve.rho, curve.radius) == (0.2, "ρ: bound on ‖ε‖₂")
    assert curve.manifest["measurement"]["microbatch_size"] == [1, 4, N]
    assert [line.value for line in curve.lines()] == curve.values.tolist()
    assert curve.to_frame()["stderr"].tolist()[:2] == curve.stderrs.tolist()[:2]
    assert SharpnessOverSizes.load(curve.save(tmp_path / "sizes.npz")) == curve
    with pytest.raises(ValueError, match=r"in the size of shards alone; they differ in measurement\.rho: 0\.2 or 0\.1"):
        SharpnessOverSizes.of([alone[0], measured(GradientAscent(0.1))])
    with pytest.raises(ValueError, match="must have different sizes of shards"):
        SharpnessOverSizes.of([alone[0], alone[0]])
    with pytest.raises(ValueError, match="must hold at least one"):
        SharpnessOverSizes.of([])


def test_results_that_were_saved_without_denominators_can_be_loaded(tmp_path):
    result = measured(GradientAscent(0.2))
    with np.load(result.save(tmp_path / "new.npz")) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "denominators"}
    header = json.loads(arrays["header"].tobytes())
    assert "denominators" not in header["scalars"]
    np.savez(tmp_path / "older.npz", **arrays)
    older = Sharpness.load(tmp_path / "older.npz")
    assert older.denominators is None
    assert older.value == result.value
    assert "denominator" not in older.to_frame()
    assert Sharpness.load(older.save(tmp_path / "again.npz")).denominators is None
