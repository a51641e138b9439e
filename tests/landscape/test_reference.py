from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from problems import ZOO, dense_hessian, linear_regression, problem, quadratic, symmetric

from landscape import HessianOperator, pyhessian_eigenvalues, top_eigenvalues

THEIR_RTOL = 1e-5  # PyHessian divides vectors by their norm + 1e-6, and its v'Hv is off by that twice


def by_magnitude(values, k):
    values = np.asarray(values)
    return values[np.argsort(-np.abs(values))][:k]


def test_on_a_quadratic_it_finds_the_eigenvalues_of_largest_magnitude():
    objective = quadratic(symmetric(torch.tensor([-5.0, 3.0, 1.0, 0.5, -0.1]).double()))
    result = pyhessian_eigenvalues(objective, 3, tol=1e-9, max_iterations=500)
    assert np.allclose(result.eigenvalues, [-5, 3, 1], rtol=THEIR_RTOL)


def test_on_linear_regression_it_finds_the_closed_form():
    objective, hessian = linear_regression()
    result = pyhessian_eigenvalues(objective, 1, tol=1e-9, max_iterations=1000)
    assert result.eigenvalues[0] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=THEIR_RTOL)


@pytest.mark.parametrize("name", ZOO)
def test_on_networks_it_agrees_with_lanczos_and_with_dense_autograd(name):
    given = problem(name)
    objective = given.objective()
    theirs = pyhessian_eigenvalues(objective, 2, tol=1e-10, max_iterations=2000)
    ours = top_eigenvalues(HessianOperator(objective), 2, which="LM", tol=1e-10)
    dense = by_magnitude(torch.linalg.eigvalsh(dense_hessian(given)), 2)
    assert np.allclose(theirs.eigenvalues, ours.eigenvalues, rtol=THEIR_RTOL)
    assert np.allclose(theirs.eigenvalues, dense, rtol=THEIR_RTOL)


def test_the_residuals_are_those_of_the_pairs_it_returns():
    given = problem("tanh_mlp")
    result = pyhessian_eigenvalues(given.objective(), 2, max_iterations=5)
    H, V = dense_hessian(given).numpy(), result.eigenvectors
    assert np.allclose(result.residuals, np.linalg.norm(H @ V - V * result.eigenvalues, axis=0), rtol=1e-9)
    assert np.allclose(np.linalg.norm(V, axis=0), 1, rtol=1e-12)


def test_it_is_called_converged_where_the_residual_is_within_the_tolerance():
    result = pyhessian_eigenvalues(quadratic(torch.tensor([-5.0, 0.01, 0.0, 0.02]).double().diag()), tol=1e-4)
    assert result.converged.all()
    assert result.residuals[0] <= 1e-4 * 5


def test_it_is_flagged_where_it_stopped_too_early():
    close = torch.cat([torch.linspace(0.9, 1, 20), torch.zeros(20)]).double()
    result = pyhessian_eigenvalues(quadratic(symmetric(close)), 1, tol=1e-3, max_iterations=100)
    assert not result.converged[0]
    assert result.residuals[0] > 1e-3
    assert abs(result.eigenvalues[0] - 1) > 1e-5


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("max_iterations", [1, 4])
def test_products_are_counted(k, max_iterations):
    result = pyhessian_eigenvalues(problem("tanh_mlp").objective(), k, tol=1e-30, max_iterations=max_iterations)
    assert result.num_products == k * max_iterations


def test_the_seed_decides_the_starting_vectors():
    objective = problem("tanh_mlp").objective()
    first, again, other = (pyhessian_eigenvalues(objective, max_iterations=2, seed=seed) for seed in (0, 0, 1))
    assert first.eigenvalues[0] == again.eigenvalues[0] != other.eigenvalues[0]


def test_the_callers_model_is_left_alone():
    given = problem("tanh_mlp")
    given.model.train()
    given.model[0].weight.requires_grad_(False)
    given.model(given.x).sum().backward()
    objective = given.objective()
    grads = [p.grad if p.grad is None else p.grad.clone() for p in given.model.parameters()]
    state = torch.get_rng_state()
    pyhessian_eigenvalues(objective, 2)
    assert given.model.training
    assert objective.model.training
    assert [p.requires_grad for p in given.model.parameters()] == [False, True, True, True]
    assert torch.equal(state, torch.get_rng_state())
    for p, before in zip(given.model.parameters(), grads, strict=True):
        assert p.grad is None if before is None else torch.equal(p.grad, before)
        assert p.grad is None or not p.grad.requires_grad


def test_nothing_is_kept_in_memory():
    objective = problem("tanh_mlp").objective()
    alive = weakref.ref(objective)
    result = pyhessian_eigenvalues(objective)
    del objective
    gc.collect()
    assert alive() is None
    assert result.num_products > 0


def test_no_warning_leaks_and_no_filter_stays():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        pyhessian_eigenvalues(problem("tanh_mlp").objective())
        assert warnings.filters == filters
    assert caught == []


def test_the_result_says_that_it_is_a_second_opinion():
    manifest = pyhessian_eigenvalues(problem("tanh_mlp").objective(), seed=3).manifest
    assert manifest["operator"] == {"name": "HessianOperator"}
    assert manifest["measurement"]["name"] == "pyhessian_eigenvalues"
    assert manifest["measurement"]["seed"] == 3


@pytest.mark.parametrize("k", [0, 32])
def test_pairs_that_there_are_none_of_are_refused(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and 31, the number of weights; got {k}"):
        pyhessian_eigenvalues(problem("tanh_mlp").objective(), k)
    with pytest.raises(ValueError, match="max_iterations must be at least 1; got 0"):
        pyhessian_eigenvalues(problem("tanh_mlp").objective(), max_iterations=0)


def test_an_objective_elsewhere_than_on_the_cpu_is_refused():
    objective = problem("tanh_mlp").objective()
    objective.weights = objective.weights.to("meta")
    with pytest.raises(ValueError, match="PyHessian is asked on the CPU only; the objective is on meta"):
        pyhessian_eigenvalues(objective)
