"""ε beside that of pytorch_optimizer, an independent implementation.

It adds 1e-12 to norms and takes them in single precision, also of double ones. So directions are held against each
other in double precision, and lengths in single. Where it means something else by a name, the test says what.
"""

from __future__ import annotations

import pytest
import torch
from problems import normal

from landscape import AdaptiveAscent, CentralizedAscent, FriendlyAscent, GradientAscent, every_tensor
from landscape.balls import norm
from landscape.centralized import centralized

theirs = pytest.importorskip("pytorch_optimizer")

SHAPES = [(3, 4), (3,), (2, 3, 2, 2), (2,)]
W = [normal(*shape, seed=k) for k, shape in enumerate(SHAPES)]
STEPS = [[normal(*shape, seed=10 * step + k) for k, shape in enumerate(SHAPES)] for step in range(1, 5)]
SINGLE = 4 * torch.finfo(torch.float32).eps


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


class Theirs:
    """Their optimizer on weights of ours, asked for one ε after another at the same weights."""

    def __init__(self, kind, **settings):
        self.parameters = [torch.nn.Parameter(w.clone()) for w in W]
        self.optimizer = kind(self.parameters, torch.optim.SGD, lr=0.1, **settings)

    def epsilon(self, gradients):
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        self.optimizer.first_step()
        shift = flat([p.detach() - w for p, w in zip(self.parameters, W, strict=True)])
        with torch.no_grad():
            for parameter, w in zip(self.parameters, W, strict=True):
                parameter.copy_(w)
        return shift


def assert_same(ours, other):
    assert torch.allclose(ours / ours.norm(), other / other.norm(), rtol=1e-12, atol=1e-14)
    assert ours.norm().item() == pytest.approx(other.norm().item(), rel=SINGLE)


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sam(rho):
    other = Theirs(theirs.SAM, rho=rho)
    for gradients in STEPS:
        assert_same(flat(GradientAscent(rho)(W, gradients)), other.epsilon(gradients))


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_asam_there_scales_every_tensor_and_knows_no_eta(rho):
    other = Theirs(theirs.SAM, rho=rho, adaptive=True)
    for gradients in STEPS:
        ours = AdaptiveAscent(rho, eta=0.0, scaled=every_tensor)
        assert_same(flat(ours(W, gradients)), other.epsilon(gradients))
        assert not torch.allclose(flat(AdaptiveAscent(rho)(W, gradients)), other.epsilon(gradients), rtol=1e-3)


@pytest.mark.parametrize(("sigma", "lam"), [(1.0, 0.6), (1.0, 0.95), (0.5, 0.2)])
def test_friendly_sam_over_several_steps(sigma, lam):
    other, ours = Theirs(theirs.FriendlySAM, rho=0.2, sigma=sigma, lmbda=lam), FriendlyAscent(0.2, sigma=sigma, lam=lam)
    for gradients in STEPS:
        assert_same(flat(ours(W, gradients)), other.epsilon(gradients))
        ours.learn(gradients)
    momentum = flat([other.optimizer.state[p]["momentum"] for p in other.parameters])
    assert torch.allclose(flat(ours.state_dict()["momentum"]), momentum, rtol=1e-12, atol=1e-14)


def test_gcsam_there_is_divided_by_the_norm_before_centralisation():
    other = Theirs(theirs.SAM, rho=0.2, use_gc=True)
    for gradients in STEPS:
        longer = norm(gradients) / norm(centralized(gradients))
        assert longer > 1.01
        assert_same(flat(CentralizedAscent(0.2)(W, gradients)), longer * other.epsilon(gradients))
