"""Loss scaling, overflow, clipping and bfloat16 around the two passes."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import msam.trainer
from landscape import CentralizedAscent, FriendlyAscent, GradientAscent, Linf, RandomPerturbation, SeveralSteps
from msam import (
    CentralizedDescent,
    Descent,
    DeterminantDescent,
    FrobeniusDescent,
    Run,
    TraceDescent,
    TrainingDivergedError,
    mSAM,
    train,
)
from msam.checkpoints import read_state, read_weights


def net(seed=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(number=12):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(number, 6, generator=generator), torch.randint(0, 3, (number,), generator=generator)


def closure_of(model, dtype=None):
    def closure(part):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            return functional.cross_entropy(model(part[0]), part[1])

    return closure


def optimizer_on(model, **settings):
    sgd = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, **settings)


def same(model, other, **tolerance):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(p, q, **tolerance) for p, q in pairs)


def test_scaling_by_a_power_of_two_changes_no_bit():
    plain, scaled = net(), net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    ordinary, with_scaler = optimizer_on(plain), optimizer_on(scaled, scaler=scaler)
    for _ in range(3):
        loss = ordinary.step(closure_of(plain), batch())
        again = with_scaler.step(closure_of(scaled), batch())
        assert torch.equal(loss, again)
    assert same(plain, scaled, rtol=0, atol=0)
    assert with_scaler.skipped_steps == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_comes_close_to_single_precision(dtype):
    plain, mixed = net(), net()
    scaler = torch.amp.GradScaler("cpu") if dtype == torch.float16 else None
    ordinary, with_autocast = optimizer_on(plain), optimizer_on(mixed, scaler=scaler)
    start = copy.deepcopy(plain)
    for _ in range(3):
        ordinary.step(closure_of(plain), batch())
        with_autocast.step(closure_of(mixed, dtype), batch())
    moved = torch.cat([(p - q).flatten() for p, q in zip(plain.parameters(), start.parameters(), strict=True)]).norm()
    apart = torch.cat([(p - q).flatten() for p, q in zip(plain.parameters(), mixed.parameters(), strict=True)]).norm()
    assert apart < 16 * torch.finfo(dtype).eps * moved
    assert with_autocast.skipped_steps == 0


@pytest.mark.parametrize("call", [1, 2, 5, 6], ids=["first, at w", "first, at w + ε", "last, at w", "last, at w + ε"])
def test_an_overflow_in_either_pass_skips_the_step_and_lowers_the_scale(call):
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = optimizer_on(model, scaler=scaler)
    optimizer.step(closure_of(model), batch())
    before, calls = copy.deepcopy(model), []
    momentum = copy.deepcopy(optimizer.state_dict()["state"])

    def overflowing(part):
        calls.append(part)
        loss = closure_of(model)(part)
        return loss * float("inf") if len(calls) == call else loss

    optimizer.step(overflowing, batch())
    assert same(model, before, rtol=0, atol=0)
    assert optimizer.skipped_steps == 1
    assert scaler.get_scale() == 2.0**9
    for index, kept in optimizer.state_dict()["state"].items():
        assert torch.equal(kept["momentum_buffer"], momentum[index]["momentum_buffer"])
    optimizer.step(closure_of(model), batch())
    assert not same(model, before, rtol=0, atol=0)


def test_the_gradient_that_is_clipped_is_the_unscaled_average():
    model, free = net(), net()
    start = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = mSAM(
        torch.optim.SGD(model.parameters(), lr=1.0), GradientAscent(rho=0.1), num_microbatches=3, scaler=scaler,
        max_grad_norm=0.01,
    )  # fmt: skip
    optimizer.step(closure_of(model), batch())
    mSAM(torch.optim.SGD(free.parameters(), lr=1.0), GradientAscent(rho=0.1), num_microbatches=3).step(
        closure_of(free), batch()
    )
    taken = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), start.parameters(), strict=True)])
    wanted = torch.cat([(p - q).flatten() for p, q in zip(free.parameters(), start.parameters(), strict=True)])
    assert torch.allclose(taken.norm(), torch.tensor(0.01), rtol=1e-3)
    assert torch.allclose(taken / taken.norm(), wanted / wanted.norm(), atol=1e-5)


@pytest.mark.parametrize("longest", [0.01, 100.0])
def test_the_average_of_all_accumulated_batches_is_clipped_once_and_without_a_scaler_too(longest):
    model, free = net().double(), net().double()
    x, y = (part.double() if part.is_floating_point() else part for part in batch())
    for one, limit in ((model, longest), (free, None)):
        sgd = torch.optim.SGD(one.parameters(), lr=1.0)
        optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=2, max_grad_norm=limit)
        optimizer.accumulate(closure_of(one), (x[:7], y[:7]))
        optimizer.step(closure_of(one), (x[7:], y[7:]))
    start = net().double()
    ours, average = (
        torch.cat([(p - q).detach().flatten() for p, q in zip(start.parameters(), one.parameters(), strict=True)])
        for one in (model, free)
    )
    assert 0.01 < average.norm() < 100
    wanted = average * longest / average.norm() if longest < average.norm() else average
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=0)  # torch adds 1e-6 to the norm


def test_an_autocast_that_is_open_around_the_step_does_not_keep_the_weights_of_the_first_pass():
    inside, outside = net(), net()
    with torch.autocast("cpu", torch.bfloat16):
        optimizer_on(inside).step(lambda b: functional.cross_entropy(inside(b[0]), b[1]), batch())
    optimizer_on(outside).step(closure_of(outside, torch.bfloat16), batch())
    assert same(inside, outside, rtol=0, atol=0)


def overflowing(task, calls):
    """The task, its loss infinite in those calls; evaluation, without a graph, is left alone."""
    seen = []

    def loss(outputs, targets):
        value = task.loss(outputs, targets)
        if not outputs.requires_grad:
            return value
        seen.append(1)
        return value * float("inf") if calls is None or len(seen) in calls else value

    return dataclasses.replace(task, loss=loss)


def test_training_counts_the_steps_it_skips_and_resumes_the_scale(toy_task, toy_config, tmp_path):
    config = toy_config(precision="fp16", epochs=4)
    task = overflowing(toy_task, {2, 40, 41})
    run = train(task, config, Run.create(tmp_path / "run", config))
    assert [row["skipped_steps"] for row in run.metrics()] == [1, 1, 0, 0]
    assert all(math.isfinite(row["train_loss"]) for row in run.metrics())
    state = read_state(run.state_path)
    assert state["scaler"]["scale"] == 2.0**14
    short = Run.create(tmp_path / "short", config)
    seen = []

    def stop(done, number):
        seen.append(done)
        if done == 2 and number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(overflowing(toy_task, {2, 40, 41}), config, short, progress=stop)
    train(toy_task, config, short)
    assert read_state(short.state_path)["scaler"] == state["scaler"]
    ours, theirs = read_weights(short.checkpoint), read_weights(run.checkpoint)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_gradients_that_never_are_finite_end_training_in_a_sentence(toy_task, toy_config, tmp_path):
    config = toy_config(precision="fp16", epochs=20)
    run = Run.create(tmp_path / "run", config)
    with pytest.raises(TrainingDivergedError, match="overflowed in 32 steps in a row, up to epoch 8, step 4"):
        train(overflowing(toy_task, None), config, run)
    assert len(run.metrics()) == 7  # of epochs in which the weights stayed as they were


def test_steps_that_are_skipped_now_and_then_do_not_end_training(toy_task, toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr(msam.trainer, "MOST_SKIPPED", 3)
    config = toy_config(precision="fp16", epochs=3)
    calls = {6 * step + 1 for step in range(0, 12, 2)}  # six a step: two passes of three micro-batches
    run = train(overflowing(toy_task, calls), config, Run.create(tmp_path / "run", config))
    assert [row["skipped_steps"] for row in run.metrics()] == [2, 2, 2]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_mixed_precision_is_recorded_and_close_to_single(precision, toy_task, toy_config, tmp_path):
    config = toy_config(precision=precision)
    mixed = train(toy_task, config, Run.create(tmp_path / "mixed", config))
    single = train(toy_task, toy_config(), Run.create(tmp_path / "single", toy_config()))
    assert Run.open(tmp_path / "mixed").config.precision == precision
    assert bool(read_state(mixed.state_path)["scaler"]) is (precision == "fp16")
    ours, theirs = mixed.metrics()[-1]["train_loss"], single.metrics()[-1]["train_loss"]
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


class Overflowing(torch.autograd.Function):
    """Hands its input on; its gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * float("inf")


PASSES = {
    "several steps, in a box": (lambda: SeveralSteps(GradientAscent(0.1, ball=Linf()), steps=3), 4),
    "several steps": (lambda: SeveralSteps(GradientAscent(0.1), steps=3), 4),
    "gcsam": (lambda: CentralizedDescent(CentralizedAscent(0.1)), 2),
    "friendly": (lambda: FriendlyAscent(0.1), 2),
    "trace": (lambda: TraceDescent(0.1, samples=2), 3),
    "frobenius": (lambda: FrobeniusDescent(0.1), 3),
    "determinant": (lambda: DeterminantDescent(1.0, samples=2), 3),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("where", ["the loss", "the gradient"])
def test_an_overflow_in_any_of_more_passes_than_two_skips_the_step(where, name):
    make, passes = PASSES[name]
    for call in range(1, passes + 1):
        model, calls = net(), []
        sgd = torch.optim.SGD(model.parameters(), lr=0.3)
        optimizer = mSAM(sgd, make(), module=model, scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
        before = copy.deepcopy(model)

        def overflowing(part, model=model, calls=calls, call=call):
            calls.append(part)
            outputs = model(part[0])
            if len(calls) == call:
                outputs = Overflowing.apply(outputs) if where == "the gradient" else outputs * float("inf")
            return functional.cross_entropy(outputs, part[1])

        optimizer.step(overflowing, batch())
        assert len(calls) == passes
        assert (optimizer.skipped_steps, same(model, before, rtol=0, atol=0)) == (1, True), call


def test_a_loss_that_overflows_where_no_gradient_is_taken_skips_the_step():
    model, calls = net(), []
    optimizer = mSAM(
        torch.optim.SGD(model.parameters(), lr=0.3), RandomPerturbation(0.1), scaler=torch.amp.GradScaler("cpu")
    )
    optimizer.step(
        lambda b: calls.append(b) or closure_of(model)(b) * (float("inf") if len(calls) == 1 else 1), batch()
    )
    assert (len(calls), optimizer.skipped_steps) == (2, 1)


class Unbounded(Descent):
    """Steps along what is infinite, though no gradient was."""

    def direction(self, weights, probe, *, perturbed, key):
        return [slope / 0 for slope in probe(None)[1]]

    def settings(self):
        return {}


def test_a_direction_that_overflows_by_itself_skips_the_step():
    model = net()
    settings = {"num_microbatches": 2, "scaler": torch.amp.GradScaler("cpu", init_scale=4.0)}
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.3), Unbounded(), **settings)
    optimizer.step(closure_of(model), batch())
    assert (optimizer.skipped_steps, same(model, net(), rtol=0, atol=0)) == (1, True)
