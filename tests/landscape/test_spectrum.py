from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import ZOO, dense_hessian, linear_regression, problem, symmetric
from scipy.sparse.linalg import eigsh
from spectra import SPECTRA, Diagonal, like_one_that_was_trained, operator_of

from landscape import HessianOperator, top_eigenvalues
from landscape.subspace import Subspace


def wanted(values, k, which):
    values = np.sort(np.asarray(values, dtype=float))
    if which == "BE":
        return np.concatenate([values[::-1][: k - k // 2], values[: k // 2][::-1]])
    return {"LA": values[::-1], "SA": values, "LM": values[np.argsort(-np.abs(values), kind="stable")]}[which][:k]


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
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


@pytest.mark.parametrize(("which", "k", "seeds"), [("SA", 5, (6, 10, 22, 26, 32)), ("LA", 7, (19, 20, 22, 23, 27))])
def test_copies_that_rounding_puts_within_the_border_are_not_passed_over(which, k, seeds):
    values = np.repeat([3.0, -3.0, 1.0], 20)  # all chains end after three products
    for seed in seeds:
        found = top_eigenvalues(Diagonal(values), k, which=which, seed=seed)
        np.testing.assert_allclose(found.eigenvalues, wanted(values, k, which), atol=1e-9)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_all_eigenvalues_can_be_asked_for(which):
    values = [3.0, 3.0, 1.0, 0.0, -2.0]
    result = top_eigenvalues(operator_of(values), 5, which=which)
    assert np.allclose(result.eigenvalues, wanted(values, 5, which), atol=1e-12)
    assert result.num_products == 5


def test_a_single_weight_has_one_eigenvalue():
    result = top_eigenvalues(operator_of([-3.0]), 1)
    assert result.eigenvalues.tolist() == pytest.approx([-3.0])
    assert np.abs(result.eigenvectors).tolist() == [[1.0]]


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", ZOO)
def test_networks_agree_with_dense_autograd_and_with_scipy(name, which):
    given = problem(name)
    operator = HessianOperator(given.objective())
    result = top_eigenvalues(operator, 3, which=which, tol=1e-8)
    dense = wanted(torch.linalg.eigvalsh(dense_hessian(given)), 3, which)
    scipy = eigsh(operator, 3, which=which, return_eigenvectors=False, v0=np.ones(operator.dim))
    assert np.allclose(result.eigenvalues, dense, rtol=1e-7, atol=1e-10)
    assert np.allclose(np.sort(result.eigenvalues), np.sort(scipy), rtol=1e-7, atol=1e-10)


def multiplied(draw):
    return np.concatenate([np.repeat(3 * draw.normal(size=12), 3), 0.3 * draw.normal(size=60)])


def like_a_network(draw):
    return np.concatenate([3 * np.exp(-0.2 * np.arange(25)), 0.01 * draw.normal(size=175)])


DRAWN = {
    "normal": lambda draw: draw.normal(size=60),
    "clustered": lambda draw: np.concatenate([1 + 1e-4 * draw.random(10), 0.9 * draw.random(60)]),
    "multiple": multiplied,
    "like_a_network": like_a_network,
}


def starts(values, draw, which):
    """No start, a random one, an invariant subspace without the wanted vectors, and nearly those wanted."""
    order = np.argsort(values)[:: 1 if which == "SA" else -1]
    unit = np.eye(len(values))
    near = unit[:, order[:3]] + 0.01 * draw.normal(size=(len(values), 3))
    return {"none": None, "random": draw.normal(size=len(values)), "wrong": unit[:, order[4:7]], "near": near}


@pytest.mark.parametrize("start", ["none", "random", "wrong", "near"])
@pytest.mark.parametrize("name", DRAWN)
def test_on_dense_spectra_none_of_200_seeds_breaks_the_tolerance(name, start):
    broken = []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        values, k, which = DRAWN[name](draw), 1 + seed % 4, ("LA", "SA", "LM", "BE")[seed // 4 % 4]
        initial = starts(values, draw, which)[start]
        found = top_eigenvalues(Diagonal(values), k, which=which, tol=1e-2, seed=seed, initial=initial)
        truth, size = wanted(values, k, which), found.eigenvalues
        if which == "LM":  # either of two that differ by less than the tolerance, of any sign
            truth, size = np.abs(truth), np.abs(size)
        if found.converged.all() and (np.abs(size - truth) > 1e-2 * np.abs(truth) + 1e-12).any():
            broken.append((seed, k, which))
        assert found.converged.all() or found.stopped == "out of products"
    assert broken == []


@pytest.mark.parametrize("k", [1, 3])
def test_a_start_in_an_invariant_subspace_does_not_hide_the_largest(k):
    values = np.concatenate([[5.0, 4.0, 3.0, 2.0, 1.0], 0.1 * np.random.default_rng(0).random(500)])
    found = top_eigenvalues(Diagonal(values), k, initial=np.eye(505)[:, 2:5])
    assert np.allclose(found.eigenvalues, values[:k], rtol=1e-5)


@pytest.mark.parametrize(("k", "most"), [(5, 17), (10, 26)])
def test_the_chain_that_looks_for_copies_shares_its_products_with_the_search(k, most):
    values = like_one_that_was_trained()
    found = top_eigenvalues(Diagonal(values), k, tol=0.03)
    assert np.allclose(found.eigenvalues, values[:k], rtol=1e-3)
    assert found.num_products <= most  # 20 and 30 where one begins when the other has ended


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("k", [1, 4])
def test_restarts_bound_the_basis_and_change_nothing(which, k):
    values = np.sort(np.random.default_rng(0).normal(size=300))
    found = top_eigenvalues(Diagonal(values), k, which=which, tol=1e-8, max_basis=k + 16, max_products=3000)
    assert found.converged.all()
    assert found.num_products > k + 16
    assert np.allclose(found.eigenvalues, wanted(values, k, which), rtol=1e-8)
    A = np.diag(values)
    V = found.eigenvectors
    assert np.allclose(V.T @ V, np.eye(k), atol=1e-12)
    assert np.allclose(found.residuals, np.linalg.norm(A @ V - V * found.eigenvalues, axis=0), rtol=1e-3, atol=1e-13)


def test_a_search_out_of_time_says_so_and_gives_what_it_has(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    found = top_eigenvalues(Diagonal(np.linspace(0, 1, 200)), 3, tol=1e-8, max_seconds=7.5)
    assert found.stopped == "out of time"
    assert 3 <= found.num_products <= 10  # the first k are taken without a look at the clock
    assert not found.converged.any()
    assert "NOT CONVERGED (out of time)" in found.lines()[0].remark


def test_pairs_that_take_far_longer_than_there_is_time_are_refused_after_two_products(monkeypatch):
    now, products = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    operator = Diagonal(np.linspace(0, 1, 200))
    apply = operator.apply

    def slow(v):
        now[0] += 0.5 if products else 40.0  # the first one makes what the others need
        products.append(v)
        return apply(v)

    monkeypatch.setattr(operator, "apply", slow)
    said = (
        r"^90 eigenvalues take 90 products at least, about 45 s at 0\.5 s for each, and there are 20 s for them\. Give "
    )
    with pytest.raises(ValueError, match=said + r"more time, or ask for 80 at the most\.$"):
        top_eigenvalues(operator, 90, max_seconds=20)
    assert len(products) == 2
    found = top_eigenvalues(operator, 80, max_seconds=20)
    assert (found.stopped, found.num_products) == ("out of time", 80)
    assert top_eigenvalues(operator, 20, max_seconds=1e-3).stopped == "out of time"  # 10 s late


def test_pairs_are_looked_for_once_there_are_as_many_vectors_and_not_before(monkeypatch):
    asked, ritz = [], Subspace.ritz
    monkeypatch.setattr(Subspace, "ritz", lambda space: (asked.append(space.size), ritz(space))[1])
    top_eigenvalues(Diagonal(np.linspace(0, 1, 200)), 40, max_products=41)
    assert asked
    assert min(asked) > 40


def test_a_small_basis_and_no_time_are_refused():
    operator = operator_of(SPECTRA["spread"])
    with pytest.raises(ValueError, match="max_basis must be at least 16 for k = 2; got 15"):
        top_eigenvalues(operator, 2, max_basis=15)
    with pytest.raises(ValueError, match="max_seconds must be positive; got 0"):
        top_eigenvalues(operator, 2, max_seconds=0)


def test_the_chance_decides_whether_copies_are_looked_for():
    values = np.concatenate([[3.0, 2.0, 2.0, 1.0], 0.1 * np.random.default_rng(0).random(300)])
    careful, careless = (top_eigenvalues(Diagonal(values), 3, tol=0.05, chance=chance) for chance in (1e-3, 1))
    assert np.allclose(careful.eigenvalues, [3, 2, 2], rtol=1e-2)
    assert np.allclose(careless.eigenvalues, [3, 2, 1], rtol=1e-2)
    assert careless.num_products <= careful.num_products
    with pytest.raises(ValueError, match="chance must be above 0 and at most 1, a probability; got 0"):
        top_eigenvalues(Diagonal(values), chance=0)


def test_ratios_and_gap_bounds():
    values = np.concatenate([[10.0, 5.0, 2.0], np.linspace(0, 1, 60)])
    found = top_eigenvalues(Diagonal(values), 3, tol=1e-1)
    assert found.ratio(1, 3) == found.eigenvalues[0] / found.eigenvalues[2]
    bounds = found.gap_bounds
    assert (np.abs(found.eigenvalues - values[:3])[:2] <= bounds[:2] + 1e-13).all()
    assert (bounds[:2] < found.residuals[:2]).all()
    assert np.isnan(bounds[2])
    with pytest.raises(ValueError, match="j must be between 1 and 3, the eigenvalues; got 4"):
        found.ratio(1, 4)


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
    with pytest.raises(ValueError, match=r"which must be 'LA' \(largest\), 'SA' .*'LM' .* or 'BE' .*; got 'LR'"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), which="LR")


@pytest.mark.parametrize("tol", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_tolerance_that_is_not_positive_and_finite_is_refused(tol):
    with pytest.raises(ValueError, match="tol must be positive and finite; got"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), tol=tol)


def test_fewer_products_than_pairs_are_refused():
    with pytest.raises(ValueError, match="max_products must be at least k = 3; got 2"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), 3, max_products=2)


@pytest.mark.parametrize("seed", range(5))
def test_one_pair_more_than_asked_for_converges_so_that_a_close_neighbour_is_not_taken_for_the_largest(seed):
    found = top_eigenvalues(operator_of(np.array([0.0] * 40 + [1.0] * 20 + [1.01])), tol=1e-2, seed=seed)
    assert found.eigenvalues[0] == pytest.approx(1.01, abs=1e-9)  # 1 is within the tolerance after two products
