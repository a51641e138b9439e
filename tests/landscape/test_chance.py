from __future__ import annotations

import math

import pytest
import torch
from problems import normal

from landscape import Linf, RandomPerturbation
from landscape.chance import mixed, normals, uniforms

W = [normal(3, 4), normal(3, seed=1)]


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def never(epsilon):
    raise AssertionError("no gradient is needed")


@pytest.mark.parametrize("key", [(), (0,), (3, 1)])
@pytest.mark.parametrize("rho", [0.3, 7.0])
def test_its_length_is_the_radius_in_either_norm_and_no_gradient_is_looked_at(rho, key):
    epsilon = flat(RandomPerturbation(rho).search(W, never, key=key))
    assert epsilon.norm().item() == pytest.approx(rho, rel=1e-14)
    assert set(flat(RandomPerturbation(rho, ball=Linf()).search(W, never, key=key)).tolist()) == {rho, -rho}
    assert not RandomPerturbation(rho).needs_gradient
    assert RandomPerturbation(rho).draws


def test_it_depends_on_seed_and_key_and_on_nothing_else():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (1,), ()]
    first = [flat(RandomPerturbation(0.3, seed=seed).search(W, never, key=key)) for seed in (0, 1) for key in keys]
    torch.manual_seed(99)
    again = [flat(RandomPerturbation(0.3, seed=seed).search(W, never, key=key)) for seed in (0, 1) for key in keys]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(epsilon.tolist()) for epsilon in first}) == len(first)
    assert torch.equal(flat(RandomPerturbation(0.3)(W, W)), first[5])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    RandomPerturbation(0.3).search(W, never, key=(1,))
    assert torch.equal(torch.get_rng_state(), before)


def test_directions_are_uniform_on_the_sphere():
    draws = torch.stack([flat(RandomPerturbation(1.0).search(W, never, key=(k,))) for k in range(4000)])
    n, d = draws.shape
    second = draws.T @ draws / n  # E uu' = I/d, and Var u_i u_j = 1/(d(d+2)) off the diagonal
    off = second[~torch.eye(d, dtype=torch.bool)]
    assert draws.mean(0).abs().max() < 5 / math.sqrt(n * d)
    assert off.abs().max() < 5 / math.sqrt(n * d * (d + 2))
    spread = math.sqrt((3 / (d * (d + 2)) - 1 / d**2) / n)
    assert (second.diagonal() - 1 / d).abs().max() < 5 * spread


def test_streams_have_the_moments_of_their_distributions():
    z, u = (draw([torch.empty(40000).double()], 1, 2)[0] for draw in (normals, uniforms))
    assert abs(z.mean()) < 5 / 200
    assert abs(z.square().mean() - 1) < 5 * math.sqrt(2) / 200
    assert abs(u.mean()) < 5 * math.sqrt(1 / 3) / 200
    assert abs(u.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45) / 200
    assert u.abs().max() <= 1


def test_numbers_come_in_the_dtype_of_the_weights():
    like = [torch.empty(3), torch.empty(2, 2).bfloat16()]
    assert [z.dtype for z in normals(like, 0)] == [torch.float32, torch.bfloat16]


def test_seeds_of_neighbouring_numbers_are_far_apart_and_order_counts():
    seeds = [mixed(a, b) for a in range(-1, 40) for b in range(40)]
    assert len(set(seeds)) == len(seeds)
    assert mixed(1, 2) != mixed(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = torch.tensor([[seed >> k & 1 for k in range(63)] for seed in seeds]).double()
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(seeds))


def test_its_settings_name_the_seed():
    settings = {"perturbation": "RandomPerturbation", "rho": 0.3, "seed": 4}
    assert RandomPerturbation(0.3, seed=4).settings() == settings
    assert RandomPerturbation(0.3, seed=4, ball=Linf()).settings() == settings | {"ball": "Linf"}
