from __future__ import annotations

import torch
from problems import normal

from landscape import CentralizedAscent, Linf
from landscape.centralized import centralized

W = [normal(3, 4), normal(3, seed=1), normal(2, 3, 5, 4, seed=2)]
G = [normal(3, 4, seed=3), normal(3, seed=4), normal(2, 3, 5, 4, seed=5)]


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def by_hand():
    found = [G[0].clone(), G[1].clone(), G[2].clone()]
    for row in range(3):
        found[0][row] -= G[0][row].sum() / 4
    for kernel in range(2):
        found[2][kernel] -= G[2][kernel].sum() / 60
    return flat(found)


def test_every_output_loses_the_mean_of_its_inputs_and_vectors_stay():
    assert torch.allclose(flat(centralized(G)), by_hand(), rtol=1e-13, atol=1e-15)


def test_it_is_normalised_after_it_is_centralised():
    c = by_hand()
    assert torch.allclose(flat(CentralizedAscent(rho=0.3)(W, G)), 0.3 * c / c.norm(), rtol=1e-13, atol=1e-15)
    assert torch.equal(flat(CentralizedAscent(rho=0.3, ball=Linf())(W, G)), 0.3 * flat(centralized(G)).sign())


def test_a_gradient_that_is_the_same_for_all_inputs_gives_no_perturbation():
    assert not CentralizedAscent(rho=0.3)([W[0]], [torch.ones(3, 4).double() * 8])[0].any()
