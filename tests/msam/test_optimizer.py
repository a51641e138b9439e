"""mSAM against its formula, written out again here with nothing of the package."""

from __future__ import annotations

import copy
from collections import UserDict, namedtuple

import pytest
import torch
from torch.nn import functional

from landscape.perturbations import AdaptiveAscent, GradientAscent
from msam import mSAM

BASES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1),
}
Pair = namedtuple("Pair", ["x", "y"])


def gradient_of(model, inputs, targets):
    model.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def sam_displacement(weights, gradient):
    length = sum(slope.square().sum() for slope in gradient).sqrt()
    return [0.3 * slope / length for slope in gradient]


def asam_displacement(weights, gradient):
    scales = [w.abs() + 0.01 if w.ndim > 1 else torch.ones_like(w) for w in weights]
    length = sum((t * slope).square().sum() for t, slope in zip(scales, gradient, strict=True)).sqrt()
    return [0.3 * t.square() * slope / length for t, slope in zip(scales, gradient, strict=True)]


def reference_step(model, base, batch, number, displacement):
    """Σ_i |S_i|/b ∇L_{S_i}(w + ε_i), each at its own copy of the model, then the base optimizer."""
    inputs, targets = batch
    total, start = [torch.zeros_like(parameter) for parameter in model.parameters()], 0
    for position in range(number):
        stop = start + len(inputs) // number + (position < len(inputs) % number)
        moved = copy.deepcopy(model)
        slopes = gradient_of(model, inputs[start:stop], targets[start:stop])
        with torch.no_grad():
            steps = displacement(list(model.parameters()), slopes)
            for parameter, step in zip(moved.parameters(), steps, strict=True):
                parameter += step
        for sum_, slope in zip(total, gradient_of(moved, inputs[start:stop], targets[start:stop]), strict=True):
            sum_ += (stop - start) / len(inputs) * slope
        start = stop
    for parameter, slope in zip(model.parameters(), total, strict=True):
        parameter.grad = slope
    base.step()


def assert_same_weights(model, other, *, bitwise=False):
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        if bitwise:
            assert torch.equal(one, two)
        else:
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("number", [1, 2, 3, 8, 11])
@pytest.mark.parametrize(
    ("perturbation", "displacement"),
    [(GradientAscent(rho=0.3), sam_displacement), (AdaptiveAscent(rho=0.3), asam_displacement)],
    ids=["sam", "asam"],
)
def test_steps_on_ragged_batches_equal_the_formula(
    base, number, perturbation, displacement, make_net, make_batch, closure_of
):
    model, plain = make_net(), make_net()
    optimizer = mSAM(BASES[base](model.parameters()), perturbation, num_microbatches=number)
    other = BASES[base](plain.parameters())
    for seed, size in enumerate([11, 13, max(number, 8), 11]):
        batch = make_batch(size, seed=seed)
        optimizer.step(closure_of(model), batch)
        reference_step(plain, other, batch, number, displacement)
        assert_same_weights(model, plain)


def test_the_gradient_left_behind_is_the_averaged_one(make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    mSAM(BASES["sgd"](model.parameters()), GradientAscent(rho=0.3), num_microbatches=3).step(
        closure_of(model), make_batch(11)
    )
    reference_step(plain, BASES["sgd"](plain.parameters()), make_batch(11), 3, sam_displacement)
    for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_microbatch_is_sam_bit_for_bit(base, dtype, make_net, make_batch, closure_of):
    model, plain = make_net(dtype), make_net(dtype)
    optimizer = mSAM(BASES[base](model.parameters()), GradientAscent(rho=0.05))
    other = BASES[base](plain.parameters())
    for seed in range(5):
        batch = make_batch(11, seed=seed, dtype=dtype)
        optimizer.step(closure_of(model), batch)
        slopes = gradient_of(plain, *batch)
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(slope) for slope in slopes]))
        before = [parameter.detach().clone() for parameter in plain.parameters()]
        with torch.no_grad():
            for parameter, slope in zip(plain.parameters(), slopes, strict=True):
                parameter += slope * (0.05 / length)
        gradient_of(plain, *batch)
        with torch.no_grad():
            for parameter, value in zip(plain.parameters(), before, strict=True):
                parameter.copy_(value)
        other.step()
        assert_same_weights(model, plain, bitwise=True)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("perturbation", [None, GradientAscent(rho=0.0), AdaptiveAscent(rho=0)], ids=repr)
@pytest.mark.parametrize("number", [1, 3])
def test_without_a_perturbation_it_is_the_base_optimizer(base, perturbation, number, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    optimizer = mSAM(BASES[base](model.parameters()), perturbation, num_microbatches=number)
    other = BASES[base](plain.parameters())
    for seed in range(4):
        batch = make_batch(11, seed=seed)
        optimizer.step(closure_of(model), batch)
        gradient_of(plain, *batch)
        other.step()
        assert_same_weights(model, plain, bitwise=number == 1)


def test_sam_on_the_whole_batch_is_another_method(make_net, make_batch, closure_of):
    gradients = []
    for number in (1, 11):
        model = make_net()
        optimizer = mSAM(BASES["sgd"](model.parameters()), GradientAscent(rho=0.3), num_microbatches=number)
        optimizer.step(closure_of(model), make_batch(11))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    whole, each = gradients
    assert (whole - each).norm() > 0.01 * whole.norm()


def test_every_microbatch_is_perturbed_at_the_same_weights_and_by_its_own_gradient(make_net, make_batch, closure_of):
    model, batch = make_net(), make_batch(11)
    start, norms = copy.deepcopy(model), []

    class Recording(GradientAscent):
        def ascent(self, weights, gradients):
            assert all(torch.equal(w, v) for w, v in zip(weights, start.parameters(), strict=True))
            epsilon = super().ascent(weights, gradients)
            norms.append(torch.cat([block.flatten() for block in epsilon]).norm().item())
            return epsilon

    mSAM(BASES["sgd"](model.parameters()), Recording(rho=0.3), num_microbatches=4).step(closure_of(model), batch)
    assert norms == pytest.approx([0.3] * 4, rel=1e-12)


@pytest.mark.parametrize("number", [1, 3])
def test_the_loss_returned_is_the_mean_over_the_ragged_batch_before_the_step(number, make_net, make_batch, closure_of):
    model, batch = make_net(), make_batch(11)
    expected = closure_of(model)(batch).detach()
    optimizer = mSAM(BASES["sgd"](model.parameters()), GradientAscent(rho=0.3), num_microbatches=number)
    loss = optimizer.step(closure_of(model), batch)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    assert loss.ndim == 0
    assert not loss.requires_grad


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda x, y: [x, y], lambda b: (b[0], b[1])),
        (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
        (Pair, lambda b: (b.x, b.y)),
        (lambda x, y: UserDict(x=x, y=y), lambda b: (b["x"], b["y"])),
        (lambda x, y: {"in": [(x[:, :2], x[:, 2:])], "y": y}, lambda b: (torch.cat(b["in"][0], dim=1), b["y"])),
        (lambda x, y: torch.cat([x, y[:, None].to(x)], dim=1), lambda b: (b[:, :4], b[:, 4].long())),
    ],
    ids=["list", "dict", "namedtuple", "UserDict", "nested", "tensor"],
)
def test_the_container_of_a_batch_makes_no_difference(pack, unpack, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    inside = closure_of(model)
    optimizer = mSAM(BASES["sgd"](model.parameters()), GradientAscent(rho=0.3), num_microbatches=3)
    optimizer.step(lambda part: inside(unpack(part)), pack(*make_batch(11)))
    mSAM(BASES["sgd"](plain.parameters()), GradientAscent(rho=0.3), num_microbatches=3).step(
        closure_of(plain), make_batch(11)
    )
    assert_same_weights(model, plain, bitwise=True)
    assert not torch.equal(next(model.parameters()), next(make_net().parameters()))


def test_it_works_under_no_grad_and_leaves_the_mode_as_it_was(make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    with torch.no_grad():
        mSAM(BASES["sgd"](model.parameters()), GradientAscent(rho=0.3)).step(closure_of(model), make_batch(11))
        assert not torch.is_grad_enabled()
    mSAM(BASES["sgd"](plain.parameters()), GradientAscent(rho=0.3)).step(closure_of(plain), make_batch(11))
    assert_same_weights(model, plain, bitwise=True)
