"""When an estimate stops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import symmetric
from spectra import dense

from landscape import Hutchinson, HutchPlusPlus, KrylovAware, XTrace, frobenius_norm, trace

ESTIMATORS = (Hutchinson(), HutchPlusPlus(), XTrace(), KrylovAware())
SPECTRUM = torch.cat([20.0 / torch.arange(2, 102) ** 1.5, -torch.linspace(0, 0.05, 160)]).double()
TRUTH = float(SPECTRUM.sum())


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_wanted_precision_stops_it_and_is_met(estimator):
    operator, rtol = dense(symmetric(SPECTRUM)), 0.1
    found = [trace(operator, 250, estimator=estimator, rtol=rtol, seed=seed) for seed in range(200)]
    assert {result.stopped for result in found} == {"precision"}
    assert {result.num_products for result in found} <= {12, 24, 48, 96, 192}
    assert all(result.stderr <= rtol * abs(result.estimate) for result in found)
    errors = np.array([result.estimate for result in found]) - TRUTH
    assert np.sqrt(np.mean(errors**2)) <= rtol * TRUTH  # the error itself, not what was said of it
    assert np.mean([low <= TRUTH <= high for low, high in (result.interval() for result in found)]) >= 0.9


def test_stopping_on_precision_does_not_favour_small_estimates():
    operator = dense(symmetric(SPECTRUM))
    found = [trace(operator, 250, estimator=Hutchinson(), rtol=0.1, seed=seed).estimate for seed in range(200)]
    assert abs(np.mean(found) - TRUTH) < 3.5 * np.std(found) / np.sqrt(200)


def test_few_samples_that_agree_by_chance_do_not_stop_it():
    operator = dense(symmetric(SPECTRUM))
    stopped = [trace(operator, 250, estimator=Hutchinson(), rtol=0.1, seed=seed).num_products for seed in range(100)]
    needed = 2 * (SPECTRUM.square().sum() / (0.1 * TRUTH) ** 2).item()  # products for a standard error of a tenth
    assert needed > 25
    assert np.mean(np.array(stopped) < needed / 2) < 0.05


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_precision_out_of_reach_takes_the_budget(estimator):
    result = trace(dense(symmetric(SPECTRUM)), 60, estimator=estimator, rtol=1e-9)
    assert (result.stopped, result.num_products) == ("budget", 60)
    assert result.stderr > 1e-9 * result.estimate


def test_a_trace_of_zero_is_never_precise_and_a_matrix_of_zeros_at_once():
    spectrum = torch.cat([torch.linspace(-2, 2, 100), torch.tensor([5.0, -5.0])]).double()
    assert trace(dense(symmetric(spectrum)), 60, rtol=0.01).stopped == "budget"
    zeros = trace(dense(torch.zeros(100, 100).double()), 60, rtol=0.01)
    assert (zeros.stopped, zeros.estimate, zeros.stderr, zeros.num_products) == ("precision", 0, 0, 12)


class Clock:
    """Time that passes with products alone."""

    def __init__(self, monkeypatch, operator, seconds):
        self.now, self.products = 0.0, 0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        product = operator.apply

        def apply(V):
            self.now += seconds * V.shape[1]
            self.products += V.shape[1]
            return product(V)

        operator.apply = apply


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("seconds", [0.1, 0.5])
def test_time_is_used_and_kept(estimator, seconds, monkeypatch):
    operator = dense(symmetric(SPECTRUM))
    clock = Clock(monkeypatch, operator, seconds)
    result = trace(operator, 250, estimator=estimator, max_seconds=20)
    assert result.stopped == "time"
    assert 20 - 3 * seconds <= clock.now <= 20
    assert result.num_products == clock.products
    assert result.interval(0.999)[0] < TRUTH < result.interval(0.999)[1]


def test_products_slower_than_the_time_given_still_give_an_answer(monkeypatch):
    operator = dense(symmetric(SPECTRUM))
    Clock(monkeypatch, operator, 100.0)
    result = trace(operator, 250, max_seconds=1)
    assert (result.stopped, result.num_products) == ("time", 4)
    assert np.isfinite(result.stderr)


def test_time_to_spare_takes_the_budget(monkeypatch):
    operator = dense(symmetric(SPECTRUM))
    Clock(monkeypatch, operator, 0.1)
    assert trace(operator, 100, max_seconds=1e6).stopped == "budget"


def test_the_first_limit_that_is_met_stops_it(monkeypatch):
    operator = dense(symmetric(SPECTRUM))
    Clock(monkeypatch, operator, 0.1)
    assert trace(operator, 250, rtol=0.5, max_seconds=10).stopped == "precision"
    assert trace(operator, 250, rtol=1e-9, max_seconds=10).stopped == "time"
    assert trace(operator, 50, rtol=1e-9, max_seconds=10).stopped == "budget"


@pytest.mark.parametrize("name", ["rtol", "max_seconds"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_limits_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, or None for no such limit; got {value}"):
        trace(dense(symmetric(SPECTRUM)), 10, **{name: value})


def test_norms_stop_too(monkeypatch):
    operator = dense(symmetric(SPECTRUM))
    assert frobenius_norm(operator, 250, rtol=0.05).stopped == "precision"
    Clock(monkeypatch, operator, 1.0)
    assert frobenius_norm(operator, 250, max_seconds=30).stopped == "time"


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("dim", [1, 2, 3, 10, 40])
def test_time_to_spare_for_more_products_than_dimensions(dim, estimator):
    matrix = symmetric(torch.linspace(-1, 3, dim, dtype=torch.float64))
    found = trace(dense(matrix), 100, estimator=estimator, max_seconds=1e6)
    assert found.num_products <= dim
    assert abs(found.estimate - float(matrix.trace())) <= 4 * found.stderr + 1e-9
    norm = frobenius_norm(dense(matrix), 100, estimator=estimator, max_seconds=1e6)
    assert abs(norm.estimate - float(matrix.norm())) <= 4 * norm.stderr + 1e-9
