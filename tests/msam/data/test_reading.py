"""Pixels become what a model takes: by the formula, in its precision, and everything measures them alike."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from landscape import (
    AdaptiveAscent,
    GradientAscent,
    HessianOperator,
    Objective,
    filter_normalized,
    line_slice,
    m_sharpness,
    trace,
)
from msam import Layerwise, OneByOne, Vectorised, mSAM
from msam.data.reading import NormalizedPixels

READING = NormalizedPixels(mean=(0.4, 0.6), std=(0.25, 0.5))
N = 11


def net(dtype=torch.float64):
    torch.manual_seed(3)
    layers = nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*layers).to(dtype)


def images():
    return torch.randint(0, 256, (N, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def targets():
    return torch.arange(N) % 3


def normalized():
    """By the formula, channel by channel."""
    x = images().double() / 255
    return torch.stack([(x[:, 0] - 0.4) / 0.25, (x[:, 1] - 0.6) / 0.5], dim=1)


def batches(x):
    return list(zip(x.split(4), targets().split(4), strict=True))  # 4, 4, 3


@pytest.fixture
def pair():
    """The same loss over pixels, and over numbers that were normalised before."""
    model = net()
    return (
        Objective(model, functional.cross_entropy, batches(images()), forward=READING),
        Objective(model, functional.cross_entropy, batches(normalized())),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pixels_are_normalised_in_the_precision_of_the_model(dtype):
    outputs, _ = READING(nn.Sequential(nn.Flatten(2), nn.Linear(16, 16).to(dtype)), (images(), targets()))
    assert outputs.dtype == dtype
    found = READING.normalized(images(), dtype)
    assert torch.allclose(found.double(), normalized(), atol=20 * torch.finfo(dtype).eps)
    assert torch.equal(READING.normalized(images().float(), dtype), found)  # as augmentation leaves them


def test_a_channel_that_is_the_same_everywhere_is_moved_to_zero():
    constant = NormalizedPixels.of_sums(torch.tensor([[4 * 51, 4 * 51**2]]), pixels=4)
    assert constant == NormalizedPixels(mean=(0.2,), std=(1.0,))


def test_products_with_pixels_are_those_of_the_dense_hessian(pair):
    ours, _ = pair
    model = net()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(w):
        blocks = [b.view(s) for b, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        outputs = functional_call(model, dict(zip(names, blocks, strict=True)), (normalized(),))
        return functional.cross_entropy(outputs, targets())

    dense = torch.autograd.functional.hessian(loss, ours.weights)
    V = torch.randn(len(dense), 3, dtype=torch.float64)
    assert torch.allclose(ours.hvp(ours.weights, V), dense @ V, atol=1e-12)
    exact = trace(HessianOperator(ours), num_probes=200).estimate
    assert exact == pytest.approx(float(dense.trace()), rel=1e-9)  # more probes than weights: no estimate is left


@pytest.mark.parametrize("size", [1, 2, 5])  # with copies of the weights, layer by layer
@pytest.mark.parametrize("ascent", [GradientAscent(rho=0.2), AdaptiveAscent(rho=0.2)])
def test_sharpness_of_pixels_is_that_of_normalised_numbers(pair, size, ascent):
    ours, theirs = (m_sharpness(objective, ascent, microbatch_size=size) for objective in pair)
    np.testing.assert_allclose(ours.per_shard, theirs.per_shard, rtol=1e-10)


def test_slices_of_pixels_are_those_of_normalised_numbers(pair):
    ours, theirs = (
        line_slice(objective, filter_normalized(objective, seed=0), coordinates=np.linspace(-1, 1, 5))
        for objective in pair
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-12)


@pytest.mark.parametrize("execution", [OneByOne, Layerwise, Vectorised])
def test_steps_on_pixels_are_those_on_normalised_numbers(execution):
    model = net()
    other, by_another_way = copy.deepcopy(model), execution()

    def steps(model, read, batch, way):
        sgd = torch.optim.SGD(model.parameters(), lr=0.2)
        optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, execution=way)
        for _ in range(2):
            optimizer.step(lambda part: functional.cross_entropy(*read(model, part)), batch)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    ours = steps(model, READING, (images(), targets()), by_another_way)
    theirs = steps(other, lambda model, part: (model(part[0]), part[1]), (normalized(), targets()), OneByOne())
    assert getattr(by_another_way, "reason", None) is None
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_manifest_says_the_normalisation(pair):
    ours, _ = pair
    said = ours.manifest()["objective"]["forward"]
    assert "NormalizedPixels" in said
    assert "mean=[0.4, 0.6], std=[0.25, 0.5]" in said
    others = dataclasses.replace(READING, std=(0.25, 0.6))
    other = Objective(net(), functional.cross_entropy, batches(images()), forward=others)
    assert other.manifest()["objective"]["forward"] != said
