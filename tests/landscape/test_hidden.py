from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import normal, symmetric

from landscape.hidden import chance_of_hiding
from landscape.subspace import Subspace


def chain_of(A, steps, seed=0):
    """The projection on a Krylov space, and the first vector."""
    space = Subspace(lambda v: A @ v, like=torch.zeros(len(A), dtype=A.dtype), most=steps)
    space.start(torch.Generator().manual_seed(seed))
    while space.size < steps:
        space.follow()
    Q = space.vectors(torch.eye(steps).double())
    return Q.T @ A @ Q, Q[:, 0]


def test_one_step_allows_all_mass_anywhere():
    assert chance_of_hiding(torch.ones(1, 1), 9.0, dim=1) == math.erf(math.sqrt(0.5))


def test_two_steps_in_closed_form():
    chain = torch.tensor([[1.0, 2.0], [2.0, 5.0]])  # p_0 = 1, p_1(7) = (7 - 1) / 2
    assert chance_of_hiding(chain, 7.0, dim=4) == pytest.approx(math.erf(math.sqrt(4 / (1 + 9) / 2)))


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("seed", range(10))
def test_the_mass_of_the_start_at_an_eigenvalue_is_never_above_the_bound(steps, seed):
    values = normal(30, seed=seed)
    A = symmetric(values, seed=seed)
    chain, start = chain_of(A, steps, seed)
    _, vectors = torch.linalg.eigh(A)
    masses = (vectors.T @ start).square()
    for value, mass in zip(torch.linalg.eigvalsh(A).tolist(), masses.tolist(), strict=True):
        largest = 2 * _inverse_erf(chance_of_hiding(chain, value, dim=1)) ** 2
        assert mass <= largest * (1 + 1e-6)


def test_a_chain_that_ended_hides_nothing():
    chain = torch.zeros(3, 3).double()
    assert chance_of_hiding(chain, 1.0, dim=10) == 0


def test_each_step_makes_hiding_less_likely():
    A = symmetric(torch.linspace(0, 1, 60).double())
    chances = [chance_of_hiding(chain_of(A, steps)[0], 1.5, dim=60) for steps in range(1, 9)]
    assert np.all(np.diff(chances) < 0)


def _inverse_erf(chance):
    return float(torch.erfinv(torch.tensor(chance, dtype=torch.float64)))
