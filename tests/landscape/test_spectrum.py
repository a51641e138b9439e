from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import ZOO, dense_hessian, linear_regression, problem, symmetric
from scipy.sparse.linalg import eigsh
from spectra import SPECTRA, operator_of

from landscape import HessianOperator, top_eigenvalues


def wanted(values, k, which):
    values = np.sort(np.asarray(values, dtype=float))
    return {"LA": values[::-1], "SA": values, "LM": values[np.argsort(-np.abs(values), kind="stable")]}[which][:k]


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_wanted_eigenvalues_are_found_in_order(name, k, which):
    result = top_eigenvalues(operator_of(SPECTRA[name]), k, which=which, tol=1e-9)
    scale = max(1.0, np.abs(SPECTRA[name]).max())
    assert result.converged.all()
    assert np.allclose(result.eigenvalues, wanted(SPECTRA[name], k, which), rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", SPECTRA)
def test_residuals_are_exact_and_the_vectors_orthonormal(name):
    A = symmetric(torch.as_tensor(SPECTRA[name])).numpy()
    result = top_eigenvalues(operator_of(SPECTRA[name]), 5)
    V = result.eigenvectors
    direct = np.linalg.norm(A @ V - V * result.eigenvalues, axis=0)
    assert np.allclose(result.residuals, direct, rtol=1e-6, atol=1e-11)
    assert np.allclose(V.T @ V, np.eye(5), atol=1e-12)


def test_the_exactly_multiple_eigenvalues_of_linear_regression_are_all_found():
    objective, hessian = linear_regression(inputs=5, outputs=4)  # each eigenvalue four times
    result = top_eigenvalues(HessianOperator(objective), 8, tol=1e-8)
    assert np.allclose(result.eigenvalues, wanted(torch.linalg.eigvalsh(hessian), 8, "LA"), rtol=1e-8)
    assert result.converged.all()


@pytest.mark.parametrize("k", [10, 20])
def test_the_search_goes_on_until_the_last_copy_of_a_multiple_eigenvalue_is_found(k):
    objective, hessian = linear_regression(inputs=12, outputs=10)  # each eigenvalue ten times: many chains
    result = top_eigenvalues(HessianOperator(objective), k, tol=1e-8)
    assert np.allclose(result.eigenvalues, wanted(torch.linalg.eigvalsh(hessian), k, "LA"), rtol=1e-8)
    assert result.converged.all()


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_all_eigenvalues_can_be_asked_for(which):
    values = [3.0, 3.0, 1.0, 0.0, -2.0]
    result = top_eigenvalues(operator_of(values), 5, which=which)
    assert np.allclose(result.eigenvalues, wanted(values, 5, which), atol=1e-12)
    assert result.num_products == 5


def test_a_single_weight_has_one_eigenvalue():
    result = top_eigenvalues(operator_of([-3.0]), 1)
    assert result.eigenvalues.tolist() == pytest.approx([-3.0])
    assert np.abs(result.eigenvectors).tolist() == [[1.0]]


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("name", ZOO)
def test_networks_agree_with_dense_autograd_and_with_scipy(name, which):
    given = problem(name)
    operator = HessianOperator(given.objective())
    result = top_eigenvalues(operator, 3, which=which, tol=1e-8)
    dense = wanted(torch.linalg.eigvalsh(dense_hessian(given)), 3, which)
    scipy = eigsh(operator, 3, which=which, return_eigenvectors=False, v0=np.ones(operator.dim))
    assert np.allclose(result.eigenvalues, dense, rtol=1e-7, atol=1e-10)
    assert np.allclose(np.sort(result.eigenvalues), np.sort(scipy), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("seed", range(50))
def test_on_dense_spectra_no_seed_breaks_the_tolerance(seed):
    values = np.sort(np.random.default_rng(seed).normal(size=60))
    result = top_eigenvalues(operator_of(values, seed=seed), 3, tol=1e-3, seed=seed)
    assert result.converged.all()
    assert (np.abs(result.eigenvalues - wanted(values, 3, "LA")) <= 1e-3 * np.abs(result.eigenvalues)).all()


@pytest.mark.parametrize("max_products", [3, 5, 8, 12])
def test_what_has_not_converged_is_flagged_and_its_residual_bounds_the_error(max_products):
    values = np.linspace(0, 1, 60)
    result = top_eigenvalues(operator_of(values), 3, tol=1e-8, max_products=max_products)
    assert result.num_products == max_products
    assert not result.converged.any()
    nearest = np.abs(result.eigenvalues[:, None] - values[None]).min(axis=1)
    assert (nearest <= result.residuals).all()
    assert (result.residuals > 1e-8).all()


def test_converged_says_whether_the_residual_meets_the_tolerance():
    values = np.concatenate([np.linspace(0, 1, 58), [5.0, 10.0]])
    result = top_eigenvalues(operator_of(values), 4, tol=1e-6, max_products=12)
    assert result.converged.tolist() == (result.residuals <= 1e-6 * np.abs(result.eigenvalues)).tolist()
    assert result.converged[0]
    assert not result.converged[-1]


def test_products_are_counted_and_reported():
    reports = []
    result = top_eigenvalues(
        operator_of(SPECTRA["spread"]), 2, progress=lambda done, total: reports.append((done, total))
    )
    assert reports[-1] == (result.num_products, 40)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


def test_the_same_seed_gives_the_same_answer():
    first, again = (top_eigenvalues(operator_of(SPECTRA["spread"]), 2, seed=3) for _ in range(2))
    assert np.array_equal(first.eigenvalues, again.eigenvalues)
    assert first.manifest["measurement"] == {"name": "top_eigenvalues", "k": 2, "which": "LA", "tol": 1e-3, "seed": 3}


@pytest.mark.parametrize("k", [0, -1, 13])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and 12, the number of weights; got {k}"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), k)


def test_another_end_of_the_spectrum_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"which must be 'LA' \(largest\), 'SA' .* or 'LM' .*; got 'BE'"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), which="BE")


@pytest.mark.parametrize("tol", [0.0, -1e-3, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(tol):
    with pytest.raises(ValueError, match="tol must be positive; got"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), tol=tol)


def test_fewer_products_than_pairs_are_refused():
    with pytest.raises(ValueError, match="max_products must be at least k = 3; got 2"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), 3, max_products=2)


@pytest.mark.parametrize("seed", range(5))
def test_one_pair_more_than_asked_for_converges_so_that_a_close_neighbour_is_not_taken_for_the_largest(seed):
    found = top_eigenvalues(operator_of(np.array([0.0] * 40 + [1.0] * 20 + [1.01])), tol=1e-2, seed=seed)
    assert found.eigenvalues[0] == pytest.approx(1.01, abs=1e-9)  # 1 is within the tolerance after two products
