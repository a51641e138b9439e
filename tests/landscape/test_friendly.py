from __future__ import annotations

import pytest
import torch
from problems import normal

from landscape import FriendlyAscent, GradientAscent, Linf

W = [normal(3, 4), normal(3, seed=1)]
STEPS = [[normal(3, 4, seed=2 + 2 * k), normal(3, seed=3 + 2 * k)] for k in range(4)]


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_over_several_steps_it_is_the_formula(sigma, lam):
    ascent = FriendlyAscent(rho=0.3, sigma=sigma, lam=lam)
    momentum = None
    for gradients in STEPS:
        g = flat(gradients)
        d = g if momentum is None else g - sigma * momentum
        assert torch.allclose(flat(ascent(W, gradients)), 0.3 * d / d.norm(), rtol=1e-13)
        momentum = g if momentum is None else lam * momentum + (1 - lam) * g
        ascent.learn(gradients)


def test_until_it_has_learnt_it_is_sam_bit_for_bit_and_says_so():
    ascent = FriendlyAscent(rho=0.3)
    sam = GradientAscent(rho=0.3)(W, STEPS[0])
    assert all(torch.equal(a, b) for a, b in zip(ascent(W, STEPS[0]), sam, strict=True))
    assert ascent.settings()["momentum"] == "none, so this is SAM"
    ascent.learn(STEPS[0])
    assert ascent.settings() == {
        "perturbation": "FriendlyAscent",
        "rho": 0.3,
        "sigma": 1.0,
        "lam": 0.6,
        "momentum": "learnt",
    }


def test_climbing_does_not_change_what_was_learnt_and_learning_does_not_keep_the_callers_tensors():
    ascent = FriendlyAscent(rho=0.3)
    gradients = [g.clone() for g in STEPS[0]]
    ascent.learn(gradients)
    gradients[0].zero_()
    ascent(W, STEPS[1])
    ascent(W, STEPS[2])
    assert all(torch.equal(a, b) for a, b in zip(ascent.state_dict()["momentum"], STEPS[0], strict=True))


def test_its_state_can_be_saved_and_loaded():
    ascent, other = FriendlyAscent(rho=0.3), FriendlyAscent(rho=0.3)
    assert ascent.state_dict() == {}
    ascent.learn(STEPS[0])
    ascent.learn(STEPS[1])
    other.load_state_dict(ascent.state_dict())
    assert torch.equal(flat(other(W, STEPS[2])), flat(ascent(W, STEPS[2])))
    other.learn(STEPS[2])
    assert not torch.equal(flat(other.state_dict()["momentum"]), flat(ascent.state_dict()["momentum"]))
    other.load_state_dict({})
    assert other.momentum is None
    with pytest.raises(ValueError, match="has a momentum for its state, but the state dict holds moment"):
        other.load_state_dict({"moment": 1})


def test_in_the_maximum_norm_it_is_the_sign_of_what_is_left():
    ascent = FriendlyAscent(rho=0.3, ball=Linf())
    ascent.learn(STEPS[0])
    assert torch.equal(flat(ascent(W, STEPS[1])), 0.3 * (flat(STEPS[1]) - flat(STEPS[0])).sign())


def test_gradients_of_other_weights_are_refused():
    ascent = FriendlyAscent(rho=0.3)
    ascent.learn(STEPS[0])
    for use in (lambda: ascent(W[:1], STEPS[1][:1]), lambda: ascent.learn([STEPS[1][1], STEPS[1][0]])):
        with pytest.raises(ValueError, match="has learnt from gradients of 2 blocks of other shapes than these"):
            use()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": -1}, "sigma must be a finite number, zero or more; got -1"),
        ({"sigma": float("inf")}, "sigma must be a finite number, zero or more; got inf"),
        ({"lam": 1}, "lam must be at least 0 and below 1; got 1"),
        ({"lam": float("nan")}, "lam must be at least 0 and below 1; got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        FriendlyAscent(rho=0.3, **settings)
