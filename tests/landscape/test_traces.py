from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import ZOO, dense_ggn, dense_hessian, linear_regression, problem, quadratic, symmetric

from landscape import GGNOperator, HessianOperator, trace

SPECTRUM = torch.linspace(-1, 3, 12, dtype=torch.float64)


@pytest.mark.parametrize("num_probes", [2, 9, 25])
def test_the_trace_of_a_diagonal_matrix_is_exact_for_any_probes(num_probes):
    result = trace(HessianOperator(quadratic(SPECTRUM.diag())), num_probes)
    assert result.estimate == pytest.approx(12.0, rel=1e-12)
    assert result.stderr == pytest.approx(0.0, abs=1e-12)
    assert result.samples.shape == (num_probes,)


def test_each_sample_is_the_quadratic_form_of_random_signs():
    A = symmetric(SPECTRUM)
    samples = trace(HessianOperator(quadratic(A)), 2, seed=4).samples
    signs = 2.0 * torch.randint(0, 2, (2, 12), generator=torch.Generator().manual_seed(4)).double() - 1
    assert np.allclose(samples, torch.einsum("pi,ij,pj->p", signs, A, signs).numpy(), rtol=1e-12)


def test_all_samples_are_drawn_anew():
    samples = trace(HessianOperator(quadratic(symmetric(SPECTRUM))), 25).samples
    assert len(np.unique(samples.round(9))) == 25


def test_estimate_and_standard_error_are_those_of_the_samples():
    result = trace(HessianOperator(quadratic(symmetric(SPECTRUM))), 30)
    assert result.estimate == pytest.approx(result.samples.mean(), rel=1e-14)
    assert result.stderr == pytest.approx(np.sqrt(result.samples.var(ddof=1) / 30), rel=1e-14)


def test_it_is_unbiased_and_the_standard_error_covers_the_truth():
    operator = HessianOperator(quadratic(symmetric(SPECTRUM)))
    results = [trace(operator, 30, seed=seed) for seed in range(200)]
    errors = np.array([result.estimate - 12.0 for result in results])
    stderrs = np.array([result.stderr for result in results])
    assert abs(errors.mean()) < 3 * errors.std(ddof=1) / np.sqrt(200)
    assert (np.abs(errors) <= 1.96 * stderrs).mean() >= 0.88
    assert stderrs.mean() == pytest.approx(errors.std(ddof=1), rel=0.15)


def test_the_trace_of_linear_regression_is_the_sum_of_squares():
    objective, hessian = linear_regression()
    result = trace(HessianOperator(objective), 60)
    assert abs(result.estimate - hessian.trace().item()) < 3 * result.stderr


@pytest.mark.parametrize("name", ZOO)
def test_networks_agree_with_dense_autograd(name):
    given = problem(name)
    for operator, dense in ((HessianOperator, dense_hessian), (GGNOperator, dense_ggn)):
        result = trace(operator(given.objective()), 40)
        assert abs(result.estimate - dense(given).trace().item()) < 3.5 * result.stderr


def test_the_probes_done_are_reported():
    reports = []
    trace(HessianOperator(quadratic(SPECTRUM.diag())), 25, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(10, 25), (20, 25), (25, 25)]


def test_the_manifest_says_how_it_was_measured():
    result = trace(GGNOperator(quadratic(SPECTRUM.diag())), 3, seed=7)
    assert result.manifest["operator"] == {"name": "GGNOperator"}
    assert result.manifest["measurement"] == {"name": "trace", "estimator": "Hutchinson", "num_probes": 3, "seed": 7}


@pytest.mark.parametrize("num_probes", [-1, 0, 1])
def test_probes_that_leave_no_standard_error_are_refused(num_probes):
    with pytest.raises(ValueError, match=f"num_probes must be at least 2, to give a standard error; got {num_probes}"):
        trace(HessianOperator(quadratic(SPECTRUM.diag())), num_probes)
