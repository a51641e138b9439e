"""The ascent whose length is that of the gradient."""

from __future__ import annotations

import pytest
import torch
from problems import normal

from landscape import Objective, UnnormalisedAscent, m_sharpness


def test_it_is_a_multiple_of_the_gradient_over_all_blocks():
    blocks = [normal(3, 4), normal(3, seed=1)]
    found = UnnormalisedAscent(rho=0.3)([torch.zeros_like(b) for b in blocks], blocks)
    assert all(torch.equal(e, 0.3 * g) for e, g in zip(found, blocks, strict=True))
    assert UnnormalisedAscent(rho=0.0).is_zero
    assert UnnormalisedAscent(rho=0.3).settings() == {"perturbation": "UnnormalisedAscent", "rho": 0.3}
    with pytest.raises(ValueError, match="rho must be"):
        UnnormalisedAscent(rho=-1)


def test_sharpness_on_a_quadratic_is_known():
    # L(w) = ½ mean (x w)² + ...: g = H w, so L(w + ρ g) - L(w) = ρ ‖g‖² + ½ ρ² g'Hg
    x, w = normal(7, 3), normal(3, seed=1)
    model = torch.nn.Linear(3, 1, bias=False).double()
    model.weight.data = w[None]
    objective = Objective(model, lambda o, t: 0.5 * (o - t).square().mean(), [(x, torch.zeros(7, 1).double())])
    H = x.T @ x / 7
    g = H @ w
    found = m_sharpness(objective, UnnormalisedAscent(rho=0.4), microbatch_size=7)
    assert found.value == pytest.approx(float(0.4 * g @ g + 0.08 * g @ H @ g), rel=1e-12)
