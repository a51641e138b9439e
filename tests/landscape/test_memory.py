"""Bytes of tensors, counted as they come and go, are bounded by what was asked for, whatever the amount of work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from counted import Counted
from problems import normal
from spectra import Diagonal
from torch import nn
from torch.nn import functional as F  # noqa: N812

from landscape import (
    FromSubset,
    HessianOperator,
    Hutchinson,
    HutchPlusPlus,
    KeptGraphs,
    KrylovAware,
    Objective,
    RebuiltGraphs,
    XTrace,
    spectral_density,
    top_eigenvalues,
    trace,
)
from landscape.estimators import BLOCK
from landscape.forecasting import for_density, for_eigenvalues, for_trace

DIM = 10_000
SPREAD = np.linspace(-1, 2, DIM)  # no search for its end is soon over
CHUNK = 24  # examples


def vectors_at_most(work, dim=DIM):
    """The most vectors of the dimension, in double precision, that are held at once."""
    with Counted() as counted:
        work()
    assert counted.bytes == 0  # what is held goes with the answer, which is not a tensor
    return counted.most / (8 * dim)


def hessian_of(num_examples, products, *, width=60):
    """Of a perceptron whose graph of one chunk is larger than its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Linear(width, 5)).double()
    data = [(normal(num_examples, 20), torch.arange(num_examples) % 5)]
    hessian = HessianOperator(Objective(model, F.cross_entropy, data, chunk_size=CHUNK, products=products))
    hessian.objective.hvp(hessian.weights, hessian.weights)  # certified
    hessian.objective._last.__init__()
    return hessian


def test_storages_are_counted_once_and_for_as_long_as_they_live():
    there = torch.ones(50).double()
    with Counted() as counted:
        view = there[:20]
        one = there + 1
        two = one.view(5, 10)
        assert (counted.bytes, counted.most) == (400, 400)
        del one
        assert counted.bytes == 400
        del two, view
        assert (counted.bytes, counted.most) == (0, 400)


@pytest.mark.parametrize("basis", [40, 80])
def test_the_basis_is_bounded_whatever_the_number_of_products(basis):
    def search(products):
        found = top_eigenvalues(Diagonal(SPREAD), 3, tol=1e-14, max_basis=basis, max_products=products)
        assert found.num_products == products

    few, many = (vectors_at_most(lambda n=n: search(n)) for n in (basis + 50, 300))
    assert 2 * basis < many <= few + 1
    assert many <= 2 * basis + basis / 8 + 12


def test_memory_grows_with_the_vectors_that_are_there():
    most = vectors_at_most(lambda: top_eigenvalues(Diagonal(SPREAD), 3, tol=1e-14, max_products=14))
    assert most <= 2 * 16 + 12


def test_the_search_of_a_part_of_the_data_is_gone_before_that_of_all():
    def search(initial):
        hessian = hessian_of(200, RebuiltGraphs())
        with Counted() as counted:
            top_eigenvalues(hessian, 3, tol=1e-9, initial=initial, max_basis=40, max_products=60)
        return counted.most, 8 * hessian.dim

    plain, vector = search(None)
    warm, _ = search(FromSubset(48))
    assert plain > 80 * vector
    assert warm <= plain + 3 * vector + 48 * 21 * 8  # three eigenvectors, and the examples


@pytest.mark.parametrize("columns", [1, 10])
def test_a_block_takes_four_of_its_size_beside_one_graph(columns):
    hessian = hessian_of(5 * CHUNK, RebuiltGraphs())
    V = normal(hessian.dim, columns)
    with Counted() as alone:
        hessian.apply(V[:, :1].clone())
    with Counted() as counted:
        hessian.apply(V)
    assert counted.most - alone.most <= 4 * columns * 8 * hessian.dim


QUESTIONS = {
    "product": lambda hessian: hessian.apply(hessian.weights),
    "block": lambda hessian: hessian.apply(hessian.weights[:, None].repeat(1, 5)),
    "eigenvalues": lambda hessian: top_eigenvalues(hessian, 2, max_basis=17, max_products=20, tol=1e-12),
    "trace": lambda hessian: trace(hessian, 12),
    "density": lambda hessian: spectral_density(hessian, 6, num_probes=2),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_memory_does_not_grow_with_the_data_and_keeps_to_the_budget(question):
    def most(num_examples, budget):
        hessian = hessian_of(num_examples, KeptGraphs(memory=budget))
        with Counted() as counted:
            QUESTIONS[question](hessian)
        return counted.most

    for budget in (0, 150_000):
        small, large = (most(number * CHUNK, budget) for number in (5, 20))
        assert large <= small + 1000  # numbers of chunks, not examples
        assert small <= most(5 * CHUNK, 0) + budget
    assert most(20 * CHUNK, 10**9) > 1.5 * small  # the graphs of all are more than this


ESTIMATORS = {  # vectors for each product, and for each block
    Hutchinson(): (0, 6.5),
    KrylovAware(): (1.5, 3),
    HutchPlusPlus(): (5 / 3, 4),
    XTrace(): (5.1, 1),
}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_trace_takes_no_more_vectors_than_is_said(estimator):
    each, more = ESTIMATORS[estimator]
    for products in (30, 120):
        most = vectors_at_most(lambda n=products: trace(Diagonal(SPREAD), n, estimator=estimator))
        assert most <= each * products + more * BLOCK


def test_rounds_of_a_trace_take_no_more_than_one():
    precise = vectors_at_most(lambda: trace(Diagonal(SPREAD), 192, rtol=1e-9))
    assert precise <= 1.5 * 192 + 3 * BLOCK


@pytest.mark.parametrize("probes", [1, 4])
def test_a_density_takes_the_vectors_of_one_probe(probes):
    for steps in (20, 80):
        most = vectors_at_most(lambda n=steps: spectral_density(Diagonal(SPREAD), n, num_probes=probes))
        assert steps < most <= steps + 8


def test_the_forecast_of_memory_is_an_upper_bound_and_not_far_from_it():
    operator = Diagonal(SPREAD)
    pairs = top_eigenvalues(operator, 3, tol=0.5)
    asked = {
        for_eigenvalues(operator, 3): lambda: top_eigenvalues(operator, 3, tol=1e-14),
        for_trace(100): lambda: trace(operator, 100),
        for_density(operator, 80, 10, outliers=3): lambda: spectral_density(operator, 80, outliers=pairs),
    }
    for question, ask in asked.items():
        most = vectors_at_most(ask)
        assert 0.8 * question.vectors <= most <= question.vectors, question.name
