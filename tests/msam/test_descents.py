"""Perturbations that look more than once, learn, or draw at random, in steps of mSAM, written out with none of it."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from landscape import (
    AdaptiveAscent,
    CentralizedAscent,
    FriendlyAscent,
    GradientAscent,
    Linf,
    RandomPerturbation,
    SeveralSteps,
)
from landscape.chance import normals
from msam import CentralizedDescent, Layerwise, OneByOne, mSAM, norm_layers


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)


def flat(blocks):
    return torch.cat([block.flatten() for block in blocks])


def gradient_of(model, x, y, shift=0.0):
    moved = copy.deepcopy(model)
    with torch.no_grad():
        start = 0
        for p in moved.parameters():
            if torch.is_tensor(shift):
                p += shift[start : start + p.numel()].view_as(p)
                start += p.numel()
    return flat(torch.autograd.grad(functional.cross_entropy(moved(x), y), list(moved.parameters())))


def reference_step(model, base, batch, number, epsilon, after=lambda h, model: h):
    """ε from (i, flat weights, gradient function) for each micro-batch; then the weighted mean of what is left."""
    (x, y), total, start = batch, 0, 0
    for i in range(number):
        stop = start + len(x) // number + (i < len(x) % number)
        at = lambda shift, part=slice(start, stop): gradient_of(model, x[part], y[part], shift)  # noqa: E731
        h = at(epsilon(i, flat(p.detach() for p in model.parameters()), at))
        total = total + (stop - start) / len(x) * after(h, model)
        start = stop
    place = 0
    for p in model.parameters():
        p.grad = total[place : place + p.numel()].view_as(p).clone()
        place += p.numel()
    base.step()


def assert_same(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("number", [1, 3])
def test_friendly_sam_takes_away_the_mean_gradient_of_the_steps_before(number, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    optimizer = mSAM(sgd(model), FriendlyAscent(rho=0.3, sigma=0.9, lam=0.7), num_microbatches=number)
    base, momentum = sgd(plain), None
    for seed in range(4):
        batch = make_batch(11, seed=seed)

        def epsilon(i, w, at, momentum=momentum):
            d = at(0.0) if momentum is None else at(0.0) - 0.9 * momentum
            return 0.3 * d / d.norm()

        g = gradient_of(plain, *batch)
        optimizer.step(closure_of(model), batch)
        reference_step(plain, base, batch, number, epsilon)
        momentum = g if momentum is None else 0.7 * momentum + 0.3 * g
        assert_same(model, plain)
        torch.testing.assert_close(flat(optimizer.perturbation.momentum), momentum, rtol=1e-12, atol=1e-13)


def test_the_momentum_survives_a_save_and_belongs_to_what_is_perturbed(make_net, make_batch, closure_of):
    build = lambda: make_net(torch.float64, torch.nn.LayerNorm(5))  # noqa: E731
    make = lambda model: mSAM(sgd(model), FriendlyAscent(0.3), num_microbatches=3, perturbed=norm_layers(model))  # noqa: E731
    whole, resumed = build(), build()
    optimizer, fresh = make(whole), make(resumed)
    for seed in range(4):
        if seed == 2:
            buffer = io.BytesIO()
            torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
            buffer.seek(0)
        optimizer.step(closure_of(whole), make_batch(11, seed=seed))
    saved = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    for part in saved["optimizer"]["msam"]["learnt"]["momentum"]:
        part.zero_()  # which is still the caller's
    for seed in range(2, 4):
        fresh.step(closure_of(resumed), make_batch(11, seed=seed))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [tuple(part.shape) for part in optimizer.perturbation.momentum] == [(5,), (5,)]


def test_what_is_learnt_is_of_the_weights_that_the_gradient_is_of(make_net, make_batch, closure_of):
    """Also where some are frozen before the step."""
    model = make_net()
    optimizer = mSAM(sgd(model), FriendlyAscent(0.3), perturbed=[model[0].bias, *model[2].parameters()])
    optimizer.accumulate(closure_of(model), make_batch(11))
    model[0].requires_grad_(False)
    optimizer.step()
    assert [tuple(part.shape) for part in optimizer.perturbation.momentum] == [(5,), (3, 5), (3,)]


def test_friendly_sam_learns_at_radius_zero_too(make_net, make_batch, closure_of):
    model, (x, y) = make_net(), make_batch(11)
    ascent = FriendlyAscent(rho=0.0)
    optimizer = mSAM(sgd(model), ascent, num_microbatches=3)
    optimizer.accumulate(closure_of(model), (x[:7], y[:7]))  # what is learnt is of all accumulated batches
    optimizer.step(closure_of(model), (x[7:], y[7:]))
    torch.testing.assert_close(flat(ascent.momentum), gradient_of(make_net(), *make_batch(11)), rtol=1e-12, atol=1e-14)


def centralized(h, model):
    """Row means taken away, for the linear layers of the net."""
    parts, place = [], 0
    for p in model.parameters():
        part = h[place : place + p.numel()].view_as(p).clone()
        place += p.numel()
        if p.ndim == 2:
            for row in part:
                row -= row.sum() / len(row)
        parts.append(part)
    return flat(parts)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_gcsam_centralises_what_is_climbed_and_what_is_descended(rho, number, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    optimizer = mSAM(sgd(model), CentralizedDescent(CentralizedAscent(rho)), num_microbatches=number)
    base = sgd(plain)

    def epsilon(i, w, at):
        c = centralized(at(0.0), plain)
        return rho * c / c.norm()

    for seed in range(3):
        optimizer.step(closure_of(model), make_batch(11, seed=seed))
        reference_step(plain, base, make_batch(11, seed=seed), number, epsilon, centralized)
        assert_same(model, plain)


def test_gradient_centralisation_alone_takes_one_pass(make_net, make_batch, closure_of):
    model, calls = make_net(), []
    optimizer = mSAM(sgd(model), CentralizedDescent(RandomPerturbation(0.0)))
    optimizer.step(lambda batch: calls.append(1) or closure_of(model)(batch), make_batch(11))
    assert len(calls) == 1
    assert all(p.grad.sum(1).abs().max() < 1e-14 for p in model.parameters() if p.ndim == 2)


@pytest.mark.parametrize("number", [1, 3])
def test_several_steps_climb_on_the_same_microbatch(number, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    perturbation = SeveralSteps(GradientAscent(0.3, ball=Linf()), steps=3, step=0.5)
    optimizer, base, calls = mSAM(sgd(model), perturbation, num_microbatches=number), sgd(plain), []

    def epsilon(i, w, at):
        e = torch.zeros_like(w)
        for _ in range(3):
            e = (e + 0.15 * at(e).sign()).clamp(-0.3, 0.3)
        return e

    for seed in range(2):
        optimizer.step(lambda b: calls.append(1) or closure_of(model)(b), make_batch(11, seed=seed))
        reference_step(plain, base, make_batch(11, seed=seed), number, epsilon)
        assert_same(model, plain)
    assert len(calls) == 2 * number * 4  # w, two on the way, and w + ε


@pytest.mark.parametrize("ascent", [GradientAscent(0.3), AdaptiveAscent(0.3), CentralizedAscent(0.3)], ids=repr)
def test_one_of_several_steps_trains_as_the_ascent_itself_bit_for_bit(ascent, make_net, make_batch, closure_of):
    models = [make_net(), make_net()]
    for model, perturbation in zip(models, [ascent, SeveralSteps(ascent, steps=1)], strict=True):
        optimizer = mSAM(sgd(model), perturbation, num_microbatches=3)
        for seed in range(3):
            optimizer.step(closure_of(model), make_batch(11, seed=seed))
    assert all(torch.equal(p, q) for p, q in zip(*[m.parameters() for m in models], strict=True))


@pytest.mark.parametrize("number", [1, 3])
def test_random_perturbations_are_drawn_anew_for_every_step_and_microbatch(number, make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    optimizer = mSAM(sgd(model), RandomPerturbation(0.3, seed=5), num_microbatches=number)
    base = sgd(plain)
    before = torch.get_rng_state()
    for step in range(3):

        def epsilon(i, w, at, step=step):
            z = flat(normals([p.detach() for p in plain.parameters()], 5, step, i))
            return 0.3 * z / z.norm()

        loss = optimizer.step(closure_of(model), make_batch(11, seed=step))
        expected = functional.cross_entropy(plain(make_batch(11, seed=step)[0]), make_batch(11, seed=step)[1])
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-11, atol=0)
        reference_step(plain, base, make_batch(11, seed=step), number, epsilon)
        assert_same(model, plain)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_perturbations_do_not_share_their_numbers_with_the_dropout_of_the_same_seed(make_net, make_batch):
    drawn, model = [], make_net()

    def closure(batch):
        drawn.append(torch.randn(3, 1).double())
        return functional.cross_entropy(model(batch[0]), batch[1])

    mSAM(sgd(model), RandomPerturbation(0.3, seed=5), seed=5).step(closure, make_batch(11))
    assert not torch.equal(drawn[0], normals([drawn[0].float()], 5, 0, 0)[0].double())


def test_a_gradient_is_not_computed_where_it_is_not_needed(make_net, make_batch, closure_of):
    model = make_net()
    counted = []
    model[0].weight.register_hook(lambda slope: counted.append(1))
    mSAM(sgd(model), RandomPerturbation(0.3), num_microbatches=3).step(closure_of(model), make_batch(11))
    assert len(counted) == 3


def test_descents_say_what_they_are():
    descent = CentralizedDescent(CentralizedAscent(0.3))
    assert descent.settings() == {"perturbation": "CentralizedAscent", "rho": 0.3, "descent": "CentralizedDescent"}
    assert repr(descent) == "CentralizedDescent(CentralizedAscent(rho=0.3))"


def test_layer_by_layer_leaves_other_balls_to_the_other_execution(make_net, make_batch, closure_of):
    models = [make_net(), make_net()]
    for model, execution in zip(models, [Layerwise(), OneByOne()], strict=True):
        ascent = GradientAscent(0.3, ball=Linf())
        optimizer = mSAM(sgd(model), ascent, num_microbatches=3, module=model, execution=execution)
        says = (
            pytest.warns(UserWarning, match="neither GradientAscent nor AdaptiveAscent in the L2 ball")
            if model is models[0]
            else nullcontext()
        )
        with says:
            optimizer.step(closure_of(model), make_batch(11))
    assert all(torch.equal(p, q) for p, q in zip(*[m.parameters() for m in models], strict=True))
