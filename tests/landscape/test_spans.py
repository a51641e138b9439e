from __future__ import annotations

import numpy as np
import pytest

from landscape.spans import local, null_space

# Two layers: what (W1, b1) gain W2 loses, what (W2, b2) gain W3 loses; a group of three with a double entry.
GENERATORS = np.array(
    [
        [1, 1, -1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, -1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 2, 0],
        [0, 0, 0, 1, 0, 0, -1, 1],
    ],
    dtype=float,
)


@pytest.mark.parametrize("seed", range(5))
def test_the_shortest_generators_are_found_from_any_mixture_of_them(seed):
    mixture = np.random.default_rng(seed).normal(size=(4, 4))
    assert sorted(local(mixture @ GENERATORS).tolist()) == sorted(GENERATORS.tolist())


def test_a_long_one_is_made_sparse_by_those_inside_it():
    inner, outer = [0, 1, 1, 1, 0], [1, 1, 0, 0, 1]
    assert sorted(local(np.array([inner, np.add(outer, inner)], dtype=float)).tolist()) == [inner, outer]


@pytest.mark.parametrize("seed", range(3))
def test_the_null_space_of_a_scaled_matrix_is_that_of_the_unscaled_one(seed):
    random = np.random.default_rng(seed)
    complement = np.linalg.svd(GENERATORS)[2][4:]  # all that is orthogonal to the generators
    A = random.normal(size=(12, 4)) @ complement
    scales = 10.0 ** random.integers(-4, 1, 8)
    found = null_space(A / np.linalg.norm(A) / scales, scales / scales.max(), tolerance=1e-10)
    assert sorted(found.tolist()) == sorted(GENERATORS.tolist())


def test_rounding_is_no_entry():
    assert local(np.array([[3.0, -3.0, 1e-15]])).tolist() == [[1.0, -1.0, 0.0]]


def test_nothing_is_found_where_the_columns_are_independent():
    assert null_space(np.eye(5, 3), np.ones(3), tolerance=1e-9).shape == (0, 3)


def test_all_is_free_where_there_are_no_rows():
    assert null_space(np.zeros((0, 2)), np.ones(2), tolerance=1e-9).tolist() == [[1, 0], [0, 1]]
