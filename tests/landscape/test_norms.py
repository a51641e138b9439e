from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import ZOO, dense_ggn, dense_hessian, problem, symmetric
from spectra import SPECTRA, dense

from landscape import (
    GGNOperator,
    HessianOperator,
    Hutchinson,
    HutchPlusPlus,
    KrylovAware,
    XTrace,
    diagonal,
    frobenius_norm,
)

ESTIMATORS = (Hutchinson(), HutchPlusPlus(), XTrace(), KrylovAware())
SPECTRUM = torch.cat([20.0 / torch.arange(2, 102) ** 1.5, -torch.linspace(0, 0.05, 60)]).double()


@pytest.mark.parametrize("name", SPECTRA)
def test_the_norm_is_the_root_of_the_sum_of_squares(name):
    values = torch.as_tensor(SPECTRA[name])
    result = frobenius_norm(dense(symmetric(values)), len(values))
    assert result.estimate == pytest.approx(float(values.norm()), abs=1e-12)
    assert result.stderr < 1e-7
    assert result.stopped == "exact"


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_interval_of_the_norm_covers(estimator):
    operator, truth = dense(symmetric(SPECTRUM)), float(SPECTRUM.norm())
    found = [frobenius_norm(operator, 40, estimator=estimator, seed=seed) for seed in range(200)]
    covered = np.mean([low <= truth <= high for low, high in (result.interval() for result in found)])
    assert covered >= 0.88  # squares of squares are skewed
    errors = np.array([result.estimate for result in found]) - truth
    assert abs(errors.mean()) < 0.3 * errors.std()  # the root of an unbiased estimate is a little small
    ratio = np.mean([result.stderr for result in found]) / errors.std()
    assert 0.7 < ratio < (5 if isinstance(estimator, XTrace) else 1.2)


@pytest.mark.parametrize("name", ZOO)
def test_norms_and_diagonals_of_networks_agree_with_dense_autograd(name):
    given = problem(name)
    for operator, exact in ((HessianOperator, dense_hessian), (GGNOperator, dense_ggn)):
        matrix, ours = exact(given), operator(given.objective())
        assert frobenius_norm(ours, ours.dim).estimate == pytest.approx(float(matrix.norm()), rel=1e-9)
        norm = frobenius_norm(ours, min(20, ours.dim - 1))
        assert abs(norm.estimate - matrix.norm().item()) <= 8 * norm.stderr
        np.testing.assert_allclose(diagonal(ours, ours.dim).estimates, matrix.diagonal(), atol=1e-10)
        found = diagonal(ours, min(20, ours.dim - 1))
        assert (np.abs(found.estimates - matrix.diagonal().numpy()) <= 8 * found.stderrs + 1e-10).all()


def test_the_stable_rank_counts_eigenvalues_of_the_largest_size():
    result = frobenius_norm(dense(symmetric(torch.tensor([3.0] * 5 + [-3.0] * 4 + [0.0] * 11).double())), 20)
    rank, error = result.stable_rank(-3.0)
    assert rank == pytest.approx(9.0, rel=1e-12)
    assert error < 1e-12
    with pytest.raises(ValueError, match="largest must be the eigenvalue of largest magnitude; got 0"):
        result.stable_rank(0.0)


def test_the_error_of_the_stable_rank_is_that_of_the_norm():
    result = frobenius_norm(dense(symmetric(SPECTRUM)), 20, estimator=Hutchinson())
    rank, error = result.stable_rank(float(SPECTRUM.max()))
    assert error / rank == pytest.approx(2 * result.stderr / result.estimate, rel=1e-12)


def test_signs_find_a_diagonal_matrix():
    values = torch.linspace(-1, 3, 30, dtype=torch.float64)
    result = diagonal(dense(values.diag()), 2)
    np.testing.assert_allclose(result.estimates, values, rtol=1e-12)
    assert result.stderrs.max() < 1e-14


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_diagonal_is_unbiased_and_its_standard_errors_are_honest(estimator):
    A = symmetric(torch.cat([torch.tensor([9.0, 5.0, -4.0]), torch.linspace(-1, 1, 37)]).double())
    found = [diagonal(dense(A), 20, estimator=estimator, seed=seed) for seed in range(200)]
    errors = np.array([result.estimates for result in found]) - A.diagonal().numpy()
    assert (np.abs(errors.mean(axis=0)) < 4.5 * errors.std(axis=0) / np.sqrt(200)).all()
    ratio = np.sqrt(np.mean([result.stderrs**2 for result in found], axis=0) / errors.var(axis=0))
    assert np.median(ratio) == pytest.approx(1.0, rel=0.1) if not isinstance(estimator, XTrace) else ratio.min() > 0.9


def test_the_variance_of_the_diagonal_is_the_sum_of_squares_beside_it():
    A = symmetric(torch.linspace(-1, 2, 20, dtype=torch.float64))
    errors = np.array([diagonal(dense(A), 10, seed=seed).estimates for seed in range(150)]) - A.diagonal().numpy()
    wanted = (A.square().sum(dim=1) - A.diagonal().square()) / 10
    np.testing.assert_allclose(errors.var(axis=0).mean(), wanted.mean(), rtol=0.1)


def test_the_answers_say_what_they_took():
    result = diagonal(dense(symmetric(SPECTRUM)), 14, seed=3)
    assert (result.num_products, result.stopped) == (14, "budget")
    expected = {"name": "diagonal", "estimator": "Hutchinson", "num_probes": 14, "seed": 3}
    assert result.manifest["measurement"] == expected
    assert result.to_frame()["estimate"].tolist() == result.estimates.tolist()
    assert result.summary()["largest"] == result.estimates.max()
    norm = frobenius_norm(dense(symmetric(SPECTRUM)), 14)
    assert norm.manifest["measurement"]["name"] == "frobenius_norm"
    assert norm.summary()["num_products"] == 14
