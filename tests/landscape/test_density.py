from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import problem, quadratic, symmetric
from spectra import SPECTRA, operator_of

from landscape import GGNOperator, HessianOperator, spectral_density


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
        "num_probes": 2,
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
