from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from problems import problem, quadratic, symmetric
from spectra import SPECTRA, operator_of

from landscape import GGNOperator, HessianOperator, Objective, SpectralDensity, spectral_density, top_eigenvalues
from landscape.differences import CentralDifferences


@pytest.mark.parametrize("steps", [1, 5, 12, 40, 100])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_weights_of_each_probe_are_positive_and_sum_to_one(name, steps):
    result = spectral_density(operator_of(SPECTRA[name]), steps, num_probes=3)
    assert result.nodes.shape == result.weights.shape == (3, min(steps, len(SPECTRA[name])))
    assert (result.weights >= 0).all()
    assert np.allclose(result.weights.sum(axis=1), 1, rtol=1e-12)


def test_a_quadrature_of_n_nodes_has_the_first_2n_moments_of_its_probe():
    A = symmetric(torch.as_tensor(SPECTRA["spread"])).numpy()
    result = spectral_density(operator_of(SPECTRA["spread"]), 4, num_probes=1, seed=5)
    probe = torch.randn(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    probe /= np.linalg.norm(probe)
    for power in range(8):
        exact = probe @ np.linalg.matrix_power(A, power) @ probe
        assert (result.weights * result.nodes**power).sum() == pytest.approx(exact, rel=1e-10)


def test_the_mean_over_probes_has_the_moments_of_the_spectrum():
    values = np.linspace(-1, 2, 10)
    result = spectral_density(operator_of(values), 10, num_probes=150)
    for power in (1, 2, 3):
        moments = (result.weights * result.nodes**power).sum(axis=1)
        stderr = moments.std(ddof=1) / np.sqrt(len(moments))
        assert abs(moments.mean() - (values**power).mean()) < 3 * stderr
        assert stderr < 0.1


def test_steps_beyond_an_exhausted_space_leave_each_eigenvalue_its_weight():
    values = SPECTRA["multiple"]
    A = symmetric(torch.as_tensor(values))
    result = spectral_density(operator_of(values), 20, num_probes=1, seed=5)  # four distinct eigenvalues
    probe = torch.randn(32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    basis = torch.linalg.eigh(A).eigenvectors
    shares = (basis.T @ (probe / probe.norm())).square().numpy()  # in ascending order of the eigenvalues
    for value in (-2.5, 1.0, 2.0, 3.0):
        found = result.weights[np.abs(result.nodes - value) < 1e-8].sum()
        assert found == pytest.approx(shares[np.sort(values) == value].sum(), rel=1e-8)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_probe_ends_early_where_every_vector_is_an_eigenvector(value):
    calls = []
    operator = HessianOperator(quadratic(value * torch.eye(16).double()))
    operator.apply = lambda v, product=operator.apply: calls.append(1) or product(v)
    result = spectral_density(operator, 10, num_probes=2)
    assert len(calls) == 2
    assert np.allclose(result.nodes[:, 0], value, rtol=1e-12)
    assert result.weights.tolist() == [[1.0] + [0.0] * 9] * 2
    assert result.summary() == {
        "smallest_node": pytest.approx(value),
        "largest_node": pytest.approx(value),
        "mean_eigenvalue": pytest.approx(value),
        "stderr": pytest.approx(0, abs=1e-12),
        "mass_at_zero": pytest.approx(float(value == 0)),
        "mass_at_zero_stderr": 0.0,
        "kernel_width": 1e-12 if value == 0 else pytest.approx(0.015),  # 0.5 % of what is farthest from zero
        "num_probes": 2,
        "num_outliers": 0,
    }


def test_the_smoothed_density_integrates_to_one():
    result = spectral_density(operator_of(SPECTRA["spread"]), 10, num_probes=3)
    at = np.linspace(-3, 4, 2001)
    smooth = result.density(at, width=0.1)
    assert smooth.shape == (3, 2001)
    assert np.allclose(np.trapezoid(smooth, at, axis=1), 1, rtol=1e-9)


def test_the_density_of_the_gauss_newton_matrix_has_no_negative_nodes():
    result = spectral_density(GGNOperator(problem("tanh_mlp").objective()), 10, num_probes=3)
    assert result.nodes.min() > -1e-12


@pytest.mark.parametrize(("steps", "probes"), [(0, 1), (1, 0), (-1, 1)])
def test_numbers_of_steps_and_probes_that_are_not_positive_are_refused(steps, probes):
    with pytest.raises(ValueError, match=f"must be at least 1; got {steps} and {probes}"):
        spectral_density(operator_of(SPECTRA["zero"]), steps, num_probes=probes)


KNOWN = np.concatenate([[9.0, 7.0, -6.0], np.linspace(-0.5, 1, 61), np.zeros(36)])


def known_operator():
    return operator_of(KNOWN)


def test_outliers_have_the_mass_of_one_eigenvalue_each_and_the_rest_is_the_bulk():
    operator = known_operator()
    pairs = top_eigenvalues(operator, 3, which="LM", tol=1e-10)
    result = spectral_density(operator, 30, num_probes=40, outliers=pairs)
    np.testing.assert_allclose(np.sort(result.outliers), [-6, 7, 9], rtol=1e-9)
    assert np.allclose(result.weights.sum(axis=1), 0.97, rtol=1e-12)
    assert result.nodes.min() > -0.5 - 1e-9
    assert result.nodes.max() < 1 + 1e-9
    at = np.array([-7.0, -5.0, 1.5, 8.0, 10.0])
    np.testing.assert_allclose(result.cumulative(at), np.tile([0.0, 0.01, 0.98, 0.99, 1.0], (40, 1)), atol=1e-12)
    wide = np.linspace(-8, 11, 40_001)
    np.testing.assert_allclose(np.trapezoid(result.density(wide, width=0.01), wide, axis=1), 1, rtol=1e-9)
    found = result.summary()
    assert abs(found["mean_eigenvalue"] - KNOWN.mean()) < 3.5 * found["stderr"]
    plain = spectral_density(operator, 30, num_probes=40).summary()
    assert found["stderr"] < plain["stderr"] / 3
    assert (found["smallest_node"], found["largest_node"]) == pytest.approx((-6, 9))


def test_every_eigenvalue_of_a_small_matrix_is_resolved():
    values = np.array([5.0, 4.0, 1.0, 0.5, -0.25, -1.0])
    operator = operator_of(values)
    result = spectral_density(operator, 20, num_probes=3, outliers=top_eigenvalues(operator, 2, tol=1e-12))
    for row in result.nodes:
        np.testing.assert_allclose(row, np.sort(values[2:]), atol=1e-8)


def test_eigenpairs_that_did_not_converge_are_not_taken():
    operator = known_operator()
    pairs = top_eigenvalues(operator, 2, tol=1e-10)
    doubtful = dataclasses.replace(pairs, converged=np.array([True, False]))
    assert spectral_density(operator, 5, num_probes=2, outliers=doubtful).outliers == pytest.approx([9.0])
    nothing = dataclasses.replace(pairs, converged=np.array([False, False]))
    assert len(spectral_density(operator, 5, num_probes=2, outliers=nothing).outliers) == 0


def test_outliers_of_another_matrix_are_refused():
    pairs = top_eigenvalues(operator_of(KNOWN, seed=1), 2)
    with pytest.raises(ValueError, match="outliers are eigenpairs of another matrix"):
        spectral_density(operator_of(KNOWN[:50]), 5, outliers=pairs)
    given = problem("tanh_mlp")
    theirs = top_eigenvalues(GGNOperator(given.objective()), 2)
    with pytest.raises(ValueError, match="outliers are eigenpairs of another matrix"):
        spectral_density(HessianOperator(given.objective()), 5, outliers=theirs)
    with pytest.raises(TypeError, match="outliers must be the Eigenpairs of top_eigenvalues; got list"):
        spectral_density(HessianOperator(given.objective()), 5, outliers=[1.0])


@pytest.mark.parametrize("values", [[2.0, 1.0, -3.0], [5.0]])
def test_eigenpairs_of_the_whole_matrix_have_one_weight_each(values):
    small = operator_of(np.array(values))
    result = spectral_density(small, 5, num_probes=2, outliers=top_eigenvalues(small, len(values)))
    frame = result.to_frame().query("probe == 0")
    np.testing.assert_allclose(np.sort(frame["node"]), np.sort(values), rtol=1e-12)
    np.testing.assert_allclose(frame["weight"], 1 / len(values), rtol=1e-12)
    assert result.summary()["mean_eigenvalue"] == pytest.approx(np.mean(values))


def test_probes_do_not_begin_where_the_search_of_the_same_seed_for_the_outliers_did():
    operator = operator_of(np.array([-1.0] + [0.0] * 49))  # which of the many eigenvectors are found hangs on the start
    result = spectral_density(operator, 5, num_probes=4, outliers=top_eigenvalues(operator, 2))
    assert (result.weights[np.abs(result.nodes) < 1e-9].sum() / 4) > 0.8


def test_the_mass_at_zero_is_the_share_of_zeros():
    result = spectral_density(known_operator(), 80, num_probes=60)  # the Krylov spaces are exhausted
    mass, error = result.mass_at_zero(1e-6)
    assert abs(mass - 0.37) < 3.5 * error
    assert error < 0.02
    assert result.summary()["mass_at_zero"] == result.mass_at_zero()[0]
    wide = result.mass_at_zero(0.2)[0]
    assert wide > mass
    zeros = spectral_density(operator_of(SPECTRA["zero"]), 5, num_probes=2)
    assert zeros.mass_at_zero() == (1.0, 0.0)


@pytest.mark.parametrize("scale", [1e-14, 1e-30])
def test_eigenvalues_that_are_small_are_told_from_zero_as_large_ones_are(scale):
    results = [spectral_density(operator_of(np.linspace(-1, 2, 40) * by), 8, num_probes=4) for by in (1.0, scale)]
    assert results[1].kernel_width == pytest.approx(results[0].kernel_width * scale, rel=1e-6)
    assert results[1].mass_at_zero() == pytest.approx(results[0].mass_at_zero())


def test_bands_cover_what_many_probes_find():
    at = np.array([-0.3, 0.0, 0.4, 0.8])
    many = spectral_density(known_operator(), 40, num_probes=400, seed=99)
    density, share = many.density(at, width=0.1).mean(axis=0), many.cumulative(at + 0.013).mean(axis=0)
    hits = []
    for ten in np.split(np.arange(400), 40):
        result = dataclasses.replace(many, nodes=many.nodes[ten], weights=many.weights[ten])
        one, other = result.density_band(at, width=0.1), result.cumulative_band(at + 0.013)
        assert (one.low <= one.mean).all()
        assert (one.mean <= one.high).all()
        hits += [(one.low <= density) & (density <= one.high), (other.low <= share) & (share <= other.high)]
    assert 0.82 < np.mean(hits) < 0.97


def test_a_single_probe_has_no_band():
    result = spectral_density(known_operator(), 5, num_probes=1)
    assert np.isnan(result.density_band(np.zeros(2)).low).all()
    assert np.isnan(result.mass_at_zero()[1])


def test_the_width_of_the_kernel_is_kept_with_the_result(tmp_path):
    result = spectral_density(known_operator(), 10, num_probes=2, width=0.25)
    assert result.manifest["measurement"]["width"] == 0.25
    loaded = SpectralDensity.load(result.save(tmp_path / "density.npz"))
    at = np.linspace(-1, 1, 5)
    np.testing.assert_array_equal(loaded.density(at), result.density(at, width=0.25))
    plain = SpectralDensity(nodes=result.nodes, weights=result.weights, dim=100)  # as older files hold
    assert plain.kernel_width == pytest.approx(0.005 * (result.nodes.max() - result.nodes.min()))
    for bad in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"width must be positive; got {bad}"):
            spectral_density(known_operator(), 5, width=bad)


def test_time_ends_it_between_probes_and_cuts_only_the_first_short(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    operator = known_operator()

    def apply(v, product=operator.apply):
        now[0] += 1
        return product(v)

    operator.apply = apply
    result = spectral_density(operator, 20, num_probes=10, max_seconds=70)
    assert (result.stopped, result.nodes.shape, now[0]) == ("time", (3, 20), 60)
    now[0] = 0.0
    short = spectral_density(operator, 20, num_probes=10, max_seconds=7)
    assert (short.stopped, short.nodes.shape) == ("time", (1, 7))
    assert short.weights.sum() == pytest.approx(1)
    now[0] = 0.0
    assert spectral_density(operator, 20, num_probes=2, max_seconds=70).stopped == "budget"


def test_the_frame_holds_outliers_as_nodes_of_every_probe():
    operator = known_operator()
    frame = spectral_density(operator, 8, num_probes=3, outliers=top_eigenvalues(operator, 2)).to_frame()
    assert frame.groupby("probe")["weight"].sum().tolist() == pytest.approx([1, 1, 1])
    assert frame[frame["outlier"]]["weight"].tolist() == pytest.approx([0.01] * 6)


def test_outliers_on_other_data_are_refused():
    model = torch.nn.Linear(3, 1).double()
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train, test = (
        Objective(model, torch.nn.functional.mse_loss, [(part, part[:, :1])]) for part in (inputs[:5], inputs[5:])
    )
    pairs = top_eigenvalues(HessianOperator(train), 1)
    with pytest.raises(ValueError, match="outliers are eigenpairs of another matrix"):
        spectral_density(HessianOperator(test), 3, outliers=pairs)


def test_outliers_by_differences_are_those_of_the_same_operator_made_anew():
    given = problem("tanh_mlp")
    objective = Objective(given.model, given.loss, [(given.x, given.y)], products=CentralDifferences())
    pairs = top_eigenvalues(HessianOperator(objective), 1)
    assert len(spectral_density(HessianOperator(objective), 3, outliers=pairs).outliers) == 1
