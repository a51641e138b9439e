"""mSAM in loops that are not its own: scalers as users make them, and frameworks that clip and step by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.perturbations import GradientAscent
from msam import mSAM


def half_closure(model):
    def closure(batch):
        with torch.autocast("cpu", dtype=torch.float16):
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return closure


def test_a_fresh_scaler_scales_from_the_first_step_on(make_net, make_batch):
    model = make_net(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1), scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(half_closure(model), make_batch(5, dtype=torch.float32))
    assert scaler.get_scale() == 512.0
    assert optimizer.skipped_steps == 0
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_scaler_that_is_switched_off_is_as_none(make_net, make_batch, closure_of):
    one, two = make_net(), make_net()
    for model, scaler in ((one, None), (two, torch.amp.GradScaler("cpu", enabled=False))):
        optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1), scaler=scaler)
        optimizer.step(closure_of(model), make_batch(5))
        assert "msam" not in optimizer.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
