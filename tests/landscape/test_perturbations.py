from __future__ import annotations

import math

import pytest
import torch
from problems import normal

from landscape import (
    L2,
    AdaptiveAscent,
    CentralizedAscent,
    FriendlyAscent,
    GradientAscent,
    Linf,
    Perturbation,
    every_tensor,
)

W = [normal(3, 4), normal(3, seed=1), normal(2, 3, 2, seed=2)]
G = [normal(3, 4, seed=3), normal(3, seed=4), normal(2, 3, 2, seed=5)]
KINDS = [GradientAscent, AdaptiveAscent, FriendlyAscent, CentralizedAscent]
ALL = [kind(rho=0.3, ball=ball) for kind in KINDS for ball in (L2(), Linf())]


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def length(blocks):
    return torch.stack([block.norm() for block in blocks]).norm()


def test_gradient_ascent_is_the_gradient_scaled_to_the_radius_over_all_blocks():
    epsilon = GradientAscent(rho=0.3)(W, G)
    assert torch.allclose(flat(epsilon), 0.3 * flat(G) / flat(G).norm(), rtol=1e-14)
    assert [e.shape for e in epsilon] == [g.shape for g in G]


def test_adaptive_ascent_scales_weights_by_their_size_and_vectors_not():
    T = torch.cat([W[0].abs().flatten() + 0.01, torch.ones(3).double(), W[2].abs().flatten() + 0.01])
    expected = 0.3 * T**2 * flat(G) / (T * flat(G)).norm()
    assert torch.allclose(flat(AdaptiveAscent(rho=0.3)(W, G)), expected, rtol=1e-14)


def test_which_tensors_are_scaled_is_up_to_the_user():
    T = torch.cat([w.abs().flatten() + 0.01 for w in W])
    everywhere = AdaptiveAscent(rho=0.3, scaled=every_tensor)
    assert torch.allclose(flat(everywhere(W, G)), 0.3 * T**2 * flat(G) / (T * flat(G)).norm(), rtol=1e-14)
    nowhere = AdaptiveAscent(rho=0.3, scaled=lambda tensor: False)
    assert torch.allclose(flat(nowhere(W, G)), flat(GradientAscent(rho=0.3)(W, G)), rtol=1e-14)


def test_in_the_maximum_norm_the_ascents_are_signs():
    assert torch.equal(flat(GradientAscent(rho=0.3, ball=Linf())(W, G)), 0.3 * flat(G).sign())
    T = torch.cat([W[0].abs().flatten() + 0.01, torch.ones(3).double(), W[2].abs().flatten() + 0.01])
    assert torch.allclose(flat(AdaptiveAscent(rho=0.3, ball=Linf())(W, G)), 0.3 * T * flat(G).sign(), rtol=1e-14)


def test_the_adaptive_radius_is_that_of_the_scaled_perturbation():
    epsilon = AdaptiveAscent(rho=0.3, eta=0.5)(W, G)
    scaled = [e / (w.abs() + 0.5) if w.ndim > 1 else e for e, w in zip(epsilon, W, strict=True)]
    assert flat(scaled).norm().item() == pytest.approx(0.3, rel=1e-12)


def test_adaptive_ascent_does_not_change_when_weights_are_rescaled_against_their_gradients():
    scaled_w, scaled_g = [8 * w for w in W], [g / 8 for g in G]  # L(w) seen through w -> 8 w
    matrices = AdaptiveAscent(rho=0.3, eta=0.0)([W[0], W[2]], [G[0], G[2]])
    rescaled = AdaptiveAscent(rho=0.3, eta=0.0)([scaled_w[0], scaled_w[2]], [scaled_g[0], scaled_g[2]])
    assert torch.allclose(flat(rescaled), 8 * flat(matrices), rtol=1e-13)


@pytest.mark.parametrize("perturbation", ALL, ids=repr)
def test_a_zero_gradient_gives_a_zero_perturbation_and_no_nan(perturbation):
    assert not flat(perturbation(W, [torch.zeros_like(g) for g in G])).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_radius_is_known_to_be_zero_whatever_the_gradient(kind):
    assert kind(rho=0).is_zero
    assert not kind(rho=1e-9).is_zero
    assert not flat(kind(rho=0)(W, G)).any()


@pytest.mark.parametrize("perturbation", ALL, ids=repr)
def test_single_tensors_are_taken_like_a_list_of_one(perturbation):
    single = perturbation(W[0], G[0])
    assert torch.equal(single, perturbation([W[0]], [G[0]])[0])
    assert perturbation(W[1], G[1]).shape == (3,)


@pytest.mark.parametrize("perturbation", ALL, ids=repr)
def test_weights_and_gradients_are_left_alone_and_nothing_is_tracked(perturbation):
    w, g = [x.clone().requires_grad_() for x in W], [x.clone().requires_grad_() for x in G]
    epsilon = perturbation(w, g)
    assert not any(e.requires_grad for e in epsilon)
    assert all(torch.equal(a, b) for a, b in zip([*w, *g], [*W, *G], strict=True))
    assert not {e.data_ptr() for e in epsilon} & {x.data_ptr() for x in (*w, *g)}


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_that_is_negative_or_not_finite_is_refused(kind, rho):
    with pytest.raises(ValueError, match=f"rho must be a finite number, zero or more; got {rho}"):
        kind(rho=rho)


@pytest.mark.parametrize("rho", ["0.1", None, True, torch.tensor(0.1)])
def test_a_radius_that_is_no_number_is_refused(rho):
    with pytest.raises(TypeError, match="rho must be a number; got"):
        GradientAscent(rho=rho)


def test_a_radius_can_be_changed_within_bounds():
    ascent = GradientAscent(rho=0.3)
    ascent.rho = 0.6
    assert torch.allclose(flat(ascent(W, G)), 2 * flat(GradientAscent(rho=0.3)(W, G)), rtol=1e-15)
    with pytest.raises(ValueError, match="rho must be a finite number, zero or more; got -1"):
        ascent.rho = -1
    assert ascent.rho == 0.6


def test_a_ball_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"ball must be a Ball, such as L2\(\) or Linf\(\); got 'L2'"):
        GradientAscent(rho=0.3, ball="L2")


def test_a_negative_eta_is_refused():
    with pytest.raises(ValueError, match="eta must be a finite number, zero or more; got -1"):
        AdaptiveAscent(rho=0.1, eta=-1)


def test_blocks_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="there are 3 blocks of weights but 2 gradients"):
        GradientAscent(rho=0.1)(W, G[:2])
    with pytest.raises(TypeError, match="must both be tensors or both be lists of tensors"):
        GradientAscent(rho=0.1)(W, G[0])


def test_settings_name_the_rule_and_its_parameters():
    assert GradientAscent(rho=0.3).settings() == {"perturbation": "GradientAscent", "rho": 0.3}
    assert AdaptiveAscent(rho=1).settings() == {"perturbation": "AdaptiveAscent", "rho": 1.0, "eta": 0.01}
    other = AdaptiveAscent(rho=1, ball=Linf(), scaled=every_tensor).settings()
    assert other == AdaptiveAscent(rho=1).settings() | {"ball": "Linf", "scaled": "every_tensor"}
    assert repr(GradientAscent(rho=1, ball=Linf())) == "GradientAscent(rho=1.0, ball=Linf)"


def test_a_rule_of_ones_own_is_called_with_lists():
    class Sign(Perturbation):
        def ascent(self, weights, gradients):
            return [g.sign() for g in gradients]

        def settings(self):
            return {"perturbation": "Sign"}

    assert torch.equal(Sign()(W[0], G[0]), G[0].sign())
    assert not Sign().is_zero
