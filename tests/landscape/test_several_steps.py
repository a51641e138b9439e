"""Several steps of ascent against a loop that is written out, on a quadratic."""

from __future__ import annotations

import pytest
import torch
from problems import normal, symmetric

from landscape import (
    L2,
    AdaptiveAscent,
    CentralizedAscent,
    FriendlyAscent,
    GradientAscent,
    Linf,
    RandomPerturbation,
    SeveralSteps,
)

A = symmetric(torch.linspace(-1, 3, 15).double())
W = [normal(3, 4), normal(3, seed=1)]
INNER = {
    "L2": GradientAscent(0.8),
    "Linf": GradientAscent(0.8, ball=Linf()),
    "adaptive L2": AdaptiveAscent(0.8),
    "adaptive Linf": AdaptiveAscent(0.8, ball=Linf()),
    "centralised": CentralizedAscent(0.8),
}


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def split(vector):
    return [vector[:12].view(3, 4), vector[12:]]


def slopes(epsilon):
    at = flat(W) if epsilon is None else flat(W) + flat(epsilon)
    return split(A @ at)


def loop(inner, rho, share, steps):
    """Projected ascent by hand, flat."""
    adaptive = isinstance(inner, AdaptiveAscent)
    t = torch.cat([W[0].abs().flatten() + 0.01, torch.ones(3).double()]) if adaptive else torch.ones(15).double()
    e = torch.zeros(15).double()
    for _ in range(steps):
        g = A @ (flat(W) + e)
        if isinstance(inner, CentralizedAscent):
            g = torch.cat([(g[:12].view(3, 4) - g[:12].view(3, 4).mean(1, keepdim=True)).flatten(), g[12:]])
        if inner.ball == L2():
            e = e + share * rho * t**2 * g / (t * g).norm()
            e = e * min(1, rho / (e / t).norm())
        else:
            e = torch.minimum(torch.maximum(e + share * rho * t * g.sign(), -rho * t), rho * t)
    return e


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("share", [None, 0.4, 2.0])
@pytest.mark.parametrize("name", INNER)
def test_it_is_projected_ascent(name, share, steps):
    climb = SeveralSteps(INNER[name], steps=steps, step=share)
    expected = loop(INNER[name], 0.8, 1 / steps if share is None else share, steps)
    assert torch.allclose(flat(climb.search(W, slopes)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INNER)
def test_one_step_is_the_ascent_itself_bit_for_bit(name, dtype):
    weights, gradients = [w.to(dtype) for w in W], [g.to(dtype) for g in slopes(None)]
    once = SeveralSteps(INNER[name], steps=1)
    expected = INNER[name](weights, gradients)
    for found in (once.search(weights, lambda _: gradients), once(weights, gradients)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert once.settings() == INNER[name].settings()


@pytest.mark.parametrize("name", ["L2", "Linf", "adaptive L2", "adaptive Linf"])
def test_more_steps_of_half_the_radius_climb_higher_within_the_ball(name):
    def rise(epsilon):
        e = flat(epsilon)
        return (flat(slopes(None)) @ e + e @ A @ e / 2).item()

    inner = INNER[name]
    epsilon = SeveralSteps(inner, steps=40, step=0.5).search(W, slopes)
    assert inner.ball.length(epsilon, inner.scales(W)) <= 0.8 * (1 + 1e-12)
    assert rise(epsilon) > 1.0001 * rise(inner.search(W, slopes))


def test_gradients_are_asked_for_at_zero_and_then_where_the_steps_lead():
    asked = []

    def watched(epsilon):
        asked.append(epsilon)
        return slopes(epsilon)

    epsilon = SeveralSteps(GradientAscent(0.8), steps=3).search(W, watched)
    assert asked[0] is None
    assert [flat(e).norm().item() for e in asked[1:]] == pytest.approx([0.8 / 3, 0.8 * 2 / 3], rel=0.2)
    assert len(asked) == 3
    assert not torch.equal(flat(epsilon), flat(asked[2]))


def test_radius_and_memory_are_those_of_the_ascent():
    friendly = FriendlyAscent(0.8)
    climb = SeveralSteps(friendly, steps=2)
    assert (climb.rho, climb.is_zero, climb.learns) == (0.8, False, True)
    climb.learn(slopes(None))
    assert climb.state_dict() is not None
    assert flat(friendly.momentum).equal(flat(slopes(None)))
    fresh = SeveralSteps(FriendlyAscent(0.8), steps=2)
    fresh.load_state_dict(climb.state_dict())
    assert torch.equal(flat(fresh.search(W, lambda e: W)), flat(climb.search(W, lambda e: W)))
    climb.rho = 0
    assert friendly.rho == 0
    assert climb.is_zero
    assert not SeveralSteps(GradientAscent(0.8), steps=2).learns


def test_its_settings_name_the_steps():
    climb = SeveralSteps(AdaptiveAscent(0.8, ball=Linf()), steps=4)
    assert climb.settings() == AdaptiveAscent(0.8, ball=Linf()).settings() | {"steps": 4, "step": 0.25}
    assert repr(climb) == "SeveralSteps(AdaptiveAscent(rho=0.8, ball=Linf, eta=0.01), steps=4, step=0.25)"
    assert SeveralSteps(GradientAscent(0.8), steps=1, step=0.5).settings()["step"] == 0.5


@pytest.mark.parametrize(
    ("inner", "settings", "error", "sentence"),
    [
        (RandomPerturbation(0.8), {"steps": 2}, TypeError, "perturbation must be an ascent by gradients"),
        (None, {"steps": 2}, TypeError, "perturbation must be an ascent by gradients"),
        (GradientAscent(0.8), {"steps": 0}, ValueError, "steps must be at least 1; got 0"),
        (GradientAscent(0.8), {"steps": 2.5}, TypeError, r"steps must be an integer; got 2\.5"),
        (GradientAscent(0.8), {"steps": 2, "step": 0}, ValueError, "step must be a positive share of rho; got 0"),
        (GradientAscent(0.8), {"steps": 2, "step": float("nan")}, ValueError, "positive share of rho; got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(inner, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        SeveralSteps(inner, **settings)


def test_several_steps_cannot_be_had_from_one_gradient():
    with pytest.raises(TypeError, match=r"looks at 2 gradients; call search\(weights, slopes\)"):
        SeveralSteps(GradientAscent(0.8), steps=2)(W, slopes(None))
