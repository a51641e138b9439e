from __future__ import annotations

import pytest
import torch
from problems import normal, symmetric

from landscape.subspace import Subspace

A = symmetric(torch.linspace(-1, 2, 30).double())


def grown(steps, *, most=30, matrix=A):
    space = Subspace(lambda v: matrix @ v, like=matrix[0], most=most)
    space.start(torch.Generator().manual_seed(0))
    while space.size < steps:
        assert space.follow()
    return space


def basis_of(space):
    return space.vectors(torch.eye(space.size).double())


def test_the_basis_is_orthonormal_and_the_projection_is_that_of_the_operator():
    space = grown(12)
    Q = basis_of(space)
    assert torch.allclose(Q.T @ Q, torch.eye(12).double(), atol=1e-13)
    assert torch.allclose(space.projection, Q.T @ A @ Q, atol=1e-13)


def test_residuals_are_those_of_the_definition_also_of_products_that_are_not_symmetric():
    matrix = A + 0.1 * normal(30, 30, seed=4)
    space = grown(10, matrix=matrix)
    values, coordinates = space.ritz()
    V = space.vectors(coordinates)
    assert torch.allclose(space.residuals(values, coordinates), matrix @ V - V * values, atol=1e-12)


def test_compressing_keeps_what_is_asked_for_without_a_product():
    space = grown(12)
    values, coordinates = space.ritz()
    before = space.vectors(coordinates[:, -3:])
    space.compress(coordinates[:, -3:])
    assert space.num_products == 12
    assert torch.allclose(basis_of(space), before, atol=1e-14)
    assert torch.allclose(space.projection, values[-3:].diag(), atol=1e-13)
    space.follow()
    Q = basis_of(space)
    assert torch.allclose(Q.T @ Q, torch.eye(4).double(), atol=1e-13)
    assert torch.allclose(space.projection, Q.T @ A @ Q, atol=1e-13)


def test_what_lies_in_the_basis_is_not_added():
    space = grown(5)
    assert not space.extend(basis_of(space) @ normal(5))
    assert not space.extend(torch.zeros(30).double())
    assert space.extend(normal(30, seed=9))
    assert space.num_products == space.size == 6


def test_no_more_vectors_are_held_than_may_be():
    space = grown(8, most=8)
    assert space.full
    with pytest.raises(RuntimeError, match="the basis holds 8 vectors"):
        space.follow()


def test_a_start_near_given_vectors_has_as_much_of_a_random_one():
    space = Subspace(lambda v: A @ v, like=A[0], most=30)
    near = torch.eye(30).double()[:, :1]
    space.start(torch.Generator().manual_seed(0), near=5 * near)
    assert 0.5 < float(space.vectors(torch.ones(1, 1).double())[0, 0]) < 0.95


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="a product with the operator is not finite: the loss overflows"):
        grown(2, matrix=torch.full((4, 4), torch.inf).double())
