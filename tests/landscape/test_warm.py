"""Where a search for eigenvectors starts: near vectors that are given, or those of a part of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import problem, quadratic
from spectra import SPECTRA, Diagonal, like_one_that_was_trained, operator_of

from landscape import FromSubset, HessianOperator, top_eigenvalues


def test_a_start_near_the_wanted_vectors_saves_products():
    values = like_one_that_was_trained()
    near = np.eye(len(values), 11) + 1e-3 * np.random.default_rng(0).normal(size=(len(values), 11))
    cold, warm = (top_eigenvalues(Diagonal(values), 10, tol=0.03, chance=1, initial=start) for start in (None, near))
    assert warm.converged.all()
    assert warm.num_products < 0.8 * cold.num_products


def test_the_eigenvectors_of_a_part_of_the_data_are_a_start():
    objective = problem("tanh_mlp").objective()
    found = top_eigenvalues(HessianOperator(objective), 2, tol=1e-8, initial=FromSubset(6))
    plain = top_eigenvalues(HessianOperator(objective), 2, tol=1e-8)
    assert np.allclose(found.eigenvalues, plain.eigenvalues, rtol=1e-8)
    assert found.num_subset_products > 0 == plain.num_subset_products
    assert found.manifest["measurement"]["initial"] == {"name": "FromSubset", "num_examples": 6}


def test_a_part_is_drawn_from_all_batches_without_replacement():
    objective = quadratic(torch.eye(2).double(), slopes=torch.arange(26.0).double().reshape(13, 2))
    part = FromSubset(9).part_of(objective, seed=0)
    rows = torch.cat([batch[0] for batch in part.batches])[:, 0].tolist()
    assert len(set(rows)) == 9 == part.num_examples
    assert rows != list(range(0, 18, 2))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (np.zeros(12), "finite vectors that are not zero; vector 0 has length 0"),
        (np.full(12, np.nan), "finite vectors that are not zero; vector 0 has length nan"),
        (np.ones(11), r"shape \(12,\) or \(12, j\), .*got \(11,\) of float64"),
        (np.ones((12, 0)), r"got \(12, 0\)"),
        (FromSubset(13), "a part of 13 examples is no part of 13"),
    ],
)
def test_vectors_that_are_no_start_are_refused(initial, message):
    with pytest.raises(ValueError, match=message):
        top_eigenvalues(operator_of(SPECTRA["zero"]), initial=initial)


def test_a_start_of_another_kind_and_an_empty_part_are_refused():
    with pytest.raises(TypeError, match="initial must be a tensor or an array of vectors, or FromSubset"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), initial="random")
    with pytest.raises(ValueError, match="num_examples must be at least 1; got 0"):
        FromSubset(0)
