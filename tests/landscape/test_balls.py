"""Balls against their definitions: the steepest point by search, the projection by its optimality."""

from __future__ import annotations

import pytest
import torch
from problems import normal

from landscape import L2, Linf
from landscape.balls import norm, over

G = [normal(3, 4), normal(3, seed=1), normal(2, 3, 2, seed=2)]
T = [normal(3, 4, seed=3).abs() + 0.1, torch.ones(3).double(), normal(2, 3, 2, seed=4).abs() + 0.1]
BALLS = [L2(), Linf()]
SCALES = [None, T]


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def length(ball, blocks, scales):
    e = flat(blocks) if scales is None else flat(blocks) / flat(scales)
    return e.norm() if ball == L2() else e.abs().max()


def test_the_steepest_points_are_the_textbook_ones():
    g, t = flat(G), flat(T)
    assert torch.allclose(flat(L2().steepest(G, 0.3)), 0.3 * g / g.norm(), rtol=1e-14)
    assert torch.allclose(flat(L2().steepest(G, 0.3, T)), 0.3 * t**2 * g / (t * g).norm(), rtol=1e-14)
    assert torch.equal(flat(Linf().steepest(G, 0.3)), 0.3 * g.sign())
    assert torch.allclose(flat(Linf().steepest(G, 0.3, T)), 0.3 * t * g.sign(), rtol=1e-14)


@pytest.mark.parametrize("scales", SCALES, ids=["plain", "scaled"])
@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_no_point_of_the_ball_is_higher_than_the_steepest(ball, scales):
    best = ball.steepest(G, 0.7, scales)
    assert length(ball, best, scales).item() == pytest.approx(0.7, rel=1e-13)
    height = flat(G) @ flat(best)
    for seed in range(200):
        other = [normal(*g.shape, seed=10 + seed) for g in G]
        other = [0.7 * block / length(ball, other, scales) for block in other]
        assert flat(G) @ flat(other) < height


@pytest.mark.parametrize("scales", SCALES, ids=["plain", "scaled"])
@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_the_projection_is_in_the_ball_and_nothing_in_the_ball_is_nearer(ball, scales):
    t = torch.ones_like(flat(G)) if scales is None else flat(T)
    near = ball.project(G, 0.7, scales)
    assert length(ball, near, scales) <= 0.7 * (1 + 1e-14)
    distance = ((flat(G) - flat(near)) / t).norm()
    for seed in range(200):
        other = [normal(*g.shape, seed=10 + seed) * 0.05 + block for g, block in zip(G, near, strict=True)]
        other = [block * min(1, 0.7 / length(ball, other, scales)) for block in other]
        assert ((flat(G) - flat(other)) / t).norm() > distance


@pytest.mark.parametrize("scales", SCALES, ids=["plain", "scaled"])
@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_what_is_inside_is_its_own_projection_bit_for_bit(ball, scales):
    assert all(torch.equal(a, b) for a, b in zip(ball.project(G, 1e3, scales), G, strict=True))


@pytest.mark.parametrize("scales", SCALES, ids=["plain", "scaled"])
@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_the_length_is_the_least_radius_that_holds(ball, scales):
    assert ball.length(G, scales).item() == pytest.approx(length(ball, G, scales).item(), rel=1e-14)
    assert ball.length(ball.steepest(G, 0.2, scales), scales).item() == pytest.approx(0.2, rel=1e-13)


@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_an_entry_without_scale_does_not_move_and_has_no_length(ball):
    scales = [t.clone() for t in T]
    scales[0][0, 0] = 0
    best = ball.steepest(G, 0.7, scales)
    assert best[0][0, 0] == 0
    assert ball.length(best, scales).item() == pytest.approx(0.7, rel=1e-13)
    assert torch.isfinite(flat(ball.project(best, 0.1, scales))).all()


@pytest.mark.parametrize("scales", SCALES, ids=["plain", "scaled"])
@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_a_zero_gradient_has_no_steepest_direction_and_gives_no_nan(ball, scales):
    assert not flat(ball.steepest([torch.zeros_like(g) for g in G], 0.7, scales)).any()
    assert not flat(ball.project([torch.zeros_like(g) for g in G], 0.7, scales)).any()


@pytest.mark.parametrize("scales", [None, [torch.ones(3).double(), torch.ones(2).double()]], ids=["plain", "scaled"])
def test_a_gradient_whose_length_overflows_gives_no_number_rather_than_no_perturbation(scales):
    blocks = [1e200 * torch.ones(3).double(), torch.zeros(2).double()]
    assert all(bool(part.isnan().all()) for part in L2().steepest(blocks, 0.5, scales))


@pytest.mark.parametrize("ball", BALLS, ids=repr)
def test_blocks_are_left_alone(ball):
    before = [g.clone() for g in G]
    for out in (ball.steepest(G, 0.7, T), ball.project(G, 0.7, T), ball.steepest(G), ball.project(G, 0.7)):
        assert not {block.data_ptr() for block in out} & {g.data_ptr() for g in G}
    assert all(torch.equal(a, b) for a, b in zip(G, before, strict=True))


def test_the_norm_is_over_all_entries_of_all_blocks():
    assert norm(G).item() == pytest.approx(flat(G).norm().item(), rel=1e-14)
    assert over(2.0, torch.tensor([4.0, 0.0])).tolist() == [0.5, 0.0]


def test_balls_of_one_kind_are_equal():
    assert L2() == L2() != Linf()
    assert len({L2(), L2(), Linf()}) == 2
    assert repr(Linf()) == "Linf()"
