"""Micro-batches one after another, weighted by what their means were divided by."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import Layerwise, mSAM
from msam.diagnostics import Observer

CLASS_WEIGHTS = torch.tensor([1.0, 4.0, 0.3]).double()


def setting():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    targets = torch.tensor([0, 1, 2, -100, -100, 1, 0, 2, 2, -100, 1])
    return model, (torch.randn(11, 5).double(), targets)


def reporting(model):
    """Mean loss over what is not ignored, by class weight, and the sum of those weights."""

    def closure(batch):
        inputs, targets = batch
        kept = targets != -100
        loss = functional.cross_entropy(model(inputs), targets, weight=CLASS_WEIGHTS)
        return loss, CLASS_WEIGHTS[targets[kept]].sum()

    return closure


def stepped(model, perturbation, number, batch, **settings):
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.5), perturbation, num_microbatches=number, **settings)
    return optimizer.step(reporting(model), batch)


@pytest.mark.parametrize("number", [1, 2, 4, 11])
def test_without_a_perturbation_micro_batches_by_denominator_are_the_base_optimizer(number):
    model, batch = setting()
    other = copy.deepcopy(model)
    loss = stepped(model, None, number, batch)
    expected, _ = reporting(other)(batch)
    expected.backward()
    torch.optim.SGD(other.parameters(), lr=0.5).step()
    assert torch.allclose(loss, expected, rtol=1e-12)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12)


def test_perturbed_micro_batches_are_weighted_by_their_denominators():
    model, batch = setting()
    start = copy.deepcopy(model)
    stepped(model, GradientAscent(rho=0.2), 4, batch)
    total, average = 0.0, [torch.zeros_like(p) for p in start.parameters()]
    for first, last in ((0, 3), (3, 6), (6, 9), (9, 11)):
        part = (batch[0][first:last], batch[1][first:last])
        shifted = copy.deepcopy(start)
        loss, denominator = reporting(shifted)(part)
        slopes = torch.autograd.grad(loss, list(shifted.parameters()))
        length = torch.cat([slope.flatten() for slope in slopes]).norm()
        with torch.no_grad():
            for p, slope in zip(shifted.parameters(), slopes, strict=True):
                p.add_(slope * 0.2 / length)
        slopes = torch.autograd.grad(reporting(shifted)(part)[0], list(shifted.parameters()))
        average = [a + denominator * slope for a, slope in zip(average, slopes, strict=True)]
        total += denominator
    for p, q, a in zip(model.parameters(), start.parameters(), average, strict=True):
        assert torch.allclose(p, q - 0.5 * a / total, rtol=1e-11)


def test_a_micro_batch_of_ignored_targets_alone_does_not_count():
    model, (inputs, targets) = setting()
    settings = {"num_microbatches": 11, "observes": True}
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.5), GradientAscent(rho=0.2), **settings)
    loss = optimizer.step(reporting(model), (inputs, targets))  # three of them have nothing but ignored ones
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for column in (optimizer.per_shard.losses, optimizer.per_shard.rises, optimizer.per_shard.gradient_norms):
        assert torch.equal(column.isnan(), targets == -100)


def test_a_micro_batch_without_a_direction_has_no_share_in_the_mean_cosine():
    observer, loss = Observer(), torch.tensor(2.0)
    observer.skip(0, 1, loss)
    for number, gradient in enumerate(([0.0, 0.0], [5.0, 0.0], [0.3, 0.4]), start=1):
        observer.add(number, 1, loss, None, [torch.tensor(gradient)])
    assert observer.report.mean_cosine == pytest.approx(0.6, rel=1e-6)
    assert observer.report.rises.isnan().all()


def test_a_batch_of_ignored_targets_alone_is_refused_and_moves_nothing():
    model, (inputs, targets) = setting()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="a denominator of zero for every micro-batch"):
        stepped(model, GradientAscent(rho=0.2), 2, (inputs, torch.full_like(targets, -100)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("denominator", [-1, math.inf, math.nan])
def test_a_denominator_that_makes_no_sense_is_refused(denominator):
    model, batch = setting()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.5), None)
    with pytest.raises(ValueError, match=f"must be zero or more; got {denominator}"):
        optimizer.step(lambda b: (model(b[0]).mean(), denominator), batch)


def test_all_at_once_weighs_by_reported_denominators_as_well():
    model, batch = setting()
    other = copy.deepcopy(model)
    stepped(model, GradientAscent(rho=0.2), 4, batch, module=model, execution=Layerwise())
    stepped(other, GradientAscent(rho=0.2), 4, batch)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-10)
