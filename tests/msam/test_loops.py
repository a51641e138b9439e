"""mSAM in loops that are not its own: scalers as users make them, and frameworks that clip and step by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape import GradientAscent, RandomPerturbation
from msam import mSAM


def half_closure(model):
    def closure(batch):
        with torch.autocast("cpu", dtype=torch.float16):
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return closure


def same(model, other):
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


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


def test_accumulating_and_stepping_apart_is_one_step(make_net, make_batch, closure_of):
    """Bit for bit, with clipping; the loss returned is the mean over both batches."""
    one, two = make_net(), make_net()
    steps = [((5, 0), (4, 1)), ((7, 2), (3, 3))]
    for model, apart in ((one, False), (two, True)):
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, max_grad_norm=0.2)
        closure = closure_of(model)
        for first, second in steps:
            batches = [make_batch(size, seed=seed) for size, seed in (first, second)]
            losses = [closure(batch).item() * batch[0].shape[0] for batch in batches]
            optimizer.accumulate(closure, batches[0])
            if apart:
                optimizer.accumulate(closure, batches[1])
                loss = optimizer.step()
            else:
                loss = optimizer.step(closure, batches[1])
            assert loss.item() == pytest.approx(sum(losses) / (first[0] + second[0]), rel=1e-14)
        assert optimizer.steps == 2
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_gradient_of_all_that_was_accumulated_is_there_for_the_loop_to_change(make_net, make_batch, closure_of):
    """The mean over the examples of both batches, which the step then goes along as the loop left it."""
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=1.0), None, num_microbatches=2)
    batches = [make_batch(5, seed=0), make_batch(2, seed=1)]
    whole = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    slopes = torch.autograd.grad(closure_of(model)(whole), list(model.parameters()))
    for batch in batches:
        loss = optimizer.accumulate(closure_of(model), batch)
        torch.testing.assert_close(loss, closure_of(model)(batch).detach())  # of this one alone
    torch.testing.assert_close([p.grad for p in model.parameters()], list(slopes), rtol=1e-12, atol=1e-15)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad.mul_(0.5)
    optimizer.step()
    after = [old - 0.5 * slope for old, slope in zip(before, slopes, strict=True)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], after, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("clear", ["optimizer", "model"])
def test_zero_grad_drops_what_was_accumulated(clear, to_none, make_net, make_batch, closure_of):
    """As a framework does that skips a step."""
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=1.0), GradientAscent(rho=0.1), num_microbatches=2)
    optimizer.accumulate(closure_of(model), make_batch(5, seed=0))
    alone = [p.grad.clone() for p in model.parameters()]
    {"optimizer": optimizer, "model": model}[clear].zero_grad(set_to_none=to_none)
    optimizer.accumulate(closure_of(model), make_batch(4, seed=1))
    {"optimizer": optimizer, "model": model}[clear].zero_grad(set_to_none=to_none)
    optimizer.accumulate(closure_of(model), make_batch(5, seed=0))
    assert all(torch.equal(p.grad, slope) for p, slope in zip(model.parameters(), alone, strict=True))


def test_a_gradient_that_is_zero_of_itself_is_not_dropped():
    weight = nn.Parameter(torch.ones(1))
    optimizer = mSAM(torch.optim.SGD([weight], lr=1.0), GradientAscent(rho=0.1))
    for value in (0.0, 4.0):
        optimizer.accumulate(lambda x: (x * weight).mean(), torch.full((3,), value))
    assert weight.grad.item() == 2.0


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", init_scale=4.0)])
@pytest.mark.parametrize("factor", [1.0, float("inf")])
def test_a_gradient_that_was_dropped_is_not_stepped_along(factor, scaler, make_net, make_batch, closure_of):
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(0.1), scaler=scaler)
    optimizer.accumulate(lambda b: closure_of(model)(b) * factor, make_batch(11))
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"there is no gradient to step along; call step\(closure, batch\)"):
        optimizer.step()
    assert optimizer.steps == 0
    optimizer.step(closure_of(model), make_batch(11))
    assert (optimizer.steps, optimizer.skipped_steps) == (1, 0)


def test_a_closure_without_a_batch_is_the_base_optimizers(make_net, make_batch, closure_of):
    """Some frameworks hand one to every step, and count on its being called."""
    model, called = make_net(), []
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1))
    optimizer.accumulate(closure_of(model), make_batch(5))
    optimizer.step(closure=lambda: called.append(True))
    assert called == [True]


def test_a_step_along_nothing_is_refused(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no gradient to step along; call step\(closure, batch\), or accumulate"):
            optimizer.step()
        optimizer.step(closure_of(model), make_batch(5))


def test_a_skipped_step_of_two_batches_leaves_the_weights(make_net, make_batch):
    """The first of them overflows; the scaler of mSAM is told once, by the step."""
    model = make_net(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1), scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    inputs, labels = make_batch(4, dtype=torch.float32)
    optimizer.accumulate(half_closure(model), (inputs * 1e38, labels))
    optimizer.accumulate(half_closure(model), (inputs, labels))
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert scaler.get_scale() == 128.0
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("of", ["msam", "base"])
def test_a_loop_may_unscale_the_gradient_itself(of, make_net, make_batch, closure_of):
    """Bit for bit as if it had not; also where it dropped one that it had unscaled."""
    one, two = make_net(torch.float32), make_net(torch.float32)
    for model, unscales in ((one, True), (two, False)):
        sgd, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=256.0)
        optimizer = mSAM(sgd, GradientAscent(rho=0.1), scaler=scaler)
        for seed in (0, 1):
            optimizer.zero_grad()
            optimizer.accumulate(closure_of(model), make_batch(5, seed=seed, dtype=torch.float32))
            if unscales:
                scaler.unscale_({"msam": optimizer, "base": sgd}[of])
        optimizer.step()
        assert scaler.get_scale() == 256.0
    assert same(one, two)
    assert not same(one, make_net(torch.float32))


def test_an_overflow_at_w_alone_is_not_stepped_over_where_the_loop_unscales(make_net, make_batch, closure_of):
    """Nothing is to be seen of it in the gradient."""
    model, scaler = make_net(torch.float32), torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), RandomPerturbation(0.1), scaler=scaler)
    factors = iter([float("inf"), 1.0])
    optimizer.accumulate(lambda b: closure_of(model)(b) * next(factors), make_batch(5, dtype=torch.float32))
    scaler.unscale_(optimizer)
    optimizer.step()
    assert (optimizer.skipped_steps, scaler.get_scale()) == (1, 128.0)
    assert same(model, make_net(torch.float32))


def test_a_gradient_that_was_unscaled_is_not_added_to(make_net, make_batch, closure_of):
    model, scaler = make_net(torch.float32), torch.amp.GradScaler("cpu")
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(0.1), scaler=scaler)
    optimizer.accumulate(closure_of(model), make_batch(5, dtype=torch.float32))
    scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"before the last batch was accumulated.*call scaler.unscale_ after"):
        optimizer.accumulate(closure_of(model), make_batch(5, dtype=torch.float32))


def test_a_loaded_state_drops_what_was_accumulated(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1))
    saved = optimizer.state_dict()
    optimizer.accumulate(closure_of(model), make_batch(5))
    optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match="no gradient to step along"):
        optimizer.step()


def test_counts_of_steps_survive_with_a_scaler(make_net, make_batch, closure_of):
    model = make_net()
    ours, another = (
        mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(0.1), scaler=torch.amp.GradScaler("cpu"))
        for _ in range(2)
    )
    for factor in (1.0, float("inf"), 1.0):
        ours.step(lambda b, factor=factor: closure_of(model)(b) * factor, make_batch(5))
    another.load_state_dict(ours.state_dict())
    assert (another.steps, another.skipped_steps) == (ours.steps, ours.skipped_steps) == (3, 1)


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", init_scale=4.0)])
def test_accumulated_batches_that_use_no_weight_are_a_step(scaler):
    mine, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = mSAM(torch.optim.SGD([mine], lr=0.1), GradientAscent(rho=0.1), scaler=scaler)
    assert optimizer.accumulate(lambda x: (other * x).mean(), torch.full((3,), 2.0)) == 2.0
    assert optimizer.step() == 2.0
    assert (mine.item(), optimizer.steps) == (1.0, 1)


def test_weights_that_autograd_gives_one_gradient_are_clipped_once_each():
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = mSAM(torch.optim.SGD(weights, lr=1.0), GradientAscent(rho=0.1), max_grad_norm=1.0)
    optimizer.step(lambda x: (x * (weights[0] + weights[1])).sum(1).mean(), torch.full((3, 2), 5.0))
    for weight in weights:  # the gradient (5, 5, 5, 5) has length 10
        torch.testing.assert_close(weight.detach(), torch.full((2,), 0.5))
