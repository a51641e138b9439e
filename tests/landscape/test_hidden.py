from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import normal, symmetric

from landscape.hidden import Chain, chance_of_hiding
from landscape.subspace import Subspace


def chain_of(A, steps, seed=0):
    """The projection on a Krylov space, the length of what would follow, and the first vector."""
    space = Subspace(lambda v: A @ v, like=torch.zeros(len(A), dtype=A.dtype), most=steps)
    space.start(torch.Generator().manual_seed(seed))
    while space.size < steps:
        space.follow()
    Q = space.vectors(torch.eye(steps).double())
    return Q.T @ A @ Q, space.following, Q[:, 0]


def test_one_step_in_closed_form():
    hidden = chance_of_hiding(torch.ones(1, 1), 7.0, following=2.0, dim=4)  # p_0 = 1, p_1(7) = (7 - 1) / 2
    assert hidden == pytest.approx(math.erf(math.sqrt(4 / (1 + 9) / 2)))


def test_two_steps_in_closed_form():
    chain = torch.tensor([[1.0, 2.0], [2.0, 5.0]])  # p_2(7) = ((7 - 5) 3 - 2 · 1) / 4
    assert chance_of_hiding(chain, 7.0, following=4.0, dim=4) == pytest.approx(math.erf(math.sqrt(4 / (10 + 1) / 2)))


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("seed", range(10))
def test_the_mass_of_the_start_at_an_eigenvalue_is_never_above_the_bound(steps, seed):
    values = normal(30, seed=seed)
    A = symmetric(values, seed=seed)
    chain, following, start = chain_of(A, steps, seed)
    _, vectors = torch.linalg.eigh(A)
    masses = (vectors.T @ start).square()
    for value, mass in zip(torch.linalg.eigvalsh(A).tolist(), masses.tolist(), strict=True):
        largest = 2 * _inverse_erf(chance_of_hiding(chain, value, following=following, dim=1)) ** 2
        assert mass <= largest * (1 + 1e-6)


def test_a_chain_that_ended_hides_nothing():
    chain = torch.zeros(3, 3).double()
    assert chance_of_hiding(chain, 1.0, following=1.0, dim=10) == 0
    assert chance_of_hiding(torch.ones(1, 1), 2.0, following=0.0, dim=10) == 0


def test_each_step_makes_hiding_less_likely():
    A = symmetric(torch.linspace(0, 1, 60).double())
    chains = [chain_of(A, steps) for steps in range(1, 9)]
    chances = [chance_of_hiding(T, 1.5, following=following, dim=60) for T, following, _ in chains]
    assert np.all(np.diff(chances) < 0)


def test_a_chain_excludes_nothing_inside_what_it_has_found():
    T, following, _ = chain_of(symmetric(torch.linspace(0, 1, 60).double()), 30)
    chain = Chain(T, following, 60)
    assert chain.excludes(1.0, 1.2, chance=1e-3)
    assert chain.excludes(-1.0, -0.2, chance=1e-3)
    assert not chain.excludes(1.0, 0.9, chance=1.1)
    assert not chain.excludes(-1.0, 0.1, chance=1.1)


def test_a_chain_has_found_what_has_converged_in_it_and_nothing_else():
    chain = Chain(torch.diag(torch.tensor([5.0, 1.0])), 0.5, 60)  # of the two only 1 depends on what follows
    assert chain.has_found(1.0, 4.0, within=1e-9)
    assert not chain.has_found(1.0, 6.0, within=1e-9)
    assert not chain.has_found(-1.0, 2.0, within=0.4)
    assert chain.has_found(-1.0, 2.0, within=0.5)


def _inverse_erf(chance):
    return float(torch.erfinv(torch.tensor(chance, dtype=torch.float64)))
