"""What the second pass of a micro-batch must neither see twice nor change: weights, dropout masks and buffers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landscape.perturbations import GradientAscent
from msam import mSAM
from msam.replay import RandomState, WeightsKept, buffers_kept, buffers_kept_on_error

SHARDS = [4, 4, 3]  # of a batch of 11


def resting(model, **settings):
    """mSAM on a base optimizer that does not move, so that what a step leaves behind is seen."""
    return mSAM(torch.optim.SGD(model.parameters(), lr=0.0), GradientAscent(rho=5.0), module=model, **settings)


def failing_at(closure, call):
    """The closure, with an error in its ``call``-th call, counted from one."""
    calls = []

    def fail(batch):
        calls.append(batch)
        if len(calls) == call:
            closure(batch)
            raise ArithmeticError("stop")
        return closure(batch)

    return fail


def unchanged(model, before):
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_bit_for_bit_where_subtracting_would_change_them(dtype, make_net, make_batch, closure_of):
    model = make_net(dtype)
    before = copy.deepcopy(model)
    resting(model, num_microbatches=3).step(closure_of(model), make_batch(11, dtype=dtype))
    assert unchanged(model, before)
    epsilon = torch.full((4, 5), 5 / 3, dtype=dtype)
    assert not torch.equal(before[0].weight.T + epsilon - epsilon, before[0].weight.T)


@pytest.mark.parametrize("call", range(1, 7))
def test_weights_come_back_after_an_error_in_either_pass_of_any_microbatch(call, make_net, make_batch, closure_of):
    model = make_net()
    before = copy.deepcopy(model)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=5.0), num_microbatches=3)
    with pytest.raises(ArithmeticError, match="stop"):
        optimizer.step(failing_at(closure_of(model), call), make_batch(11))
    assert unchanged(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state


@pytest.mark.parametrize("only", [0, 1])
def test_weights_come_back_when_one_of_them_has_a_gradient_in_one_pass_only(only):
    first, second = (nn.Parameter(torch.tensor([0.1, 0.7])) for _ in range(2))
    copies, calls = [first.detach().clone(), second.detach().clone()], []

    def closure(batch):
        calls.append(None)
        loss = (first * batch).square().mean()
        return loss + second.square().sum() if len(calls) % 2 != only else loss

    resting(nn.ParameterList([first, second]), num_microbatches=2).step(closure, torch.rand(3, 2))
    assert len(calls) == 4
    assert torch.equal(first, copies[0])
    assert torch.equal(second, copies[1])


def test_weights_come_back_when_the_perturbation_fails(make_net, make_batch, closure_of):
    class Failing(GradientAscent):
        def ascent(self, weights, gradients):
            raise ArithmeticError("stop")

    model = make_net()
    before = copy.deepcopy(model)
    with pytest.raises(ArithmeticError):
        mSAM(torch.optim.SGD(model.parameters(), lr=0.1), Failing(rho=1.0)).step(closure_of(model), make_batch(11))
    assert unchanged(model, before)


def test_both_passes_of_a_microbatch_see_the_same_dropout_mask(make_net, make_batch, closure_of):
    model, masks = make_net(torch.float64, nn.Dropout(0.5)), []
    model[1].register_forward_hook(lambda module, args, output: masks.append(output != 0))
    resting(model, num_microbatches=3).step(closure_of(model), make_batch(11))
    assert [len(mask) for mask in masks] == [4, 4, 4, 4, 3, 3]
    for clean, perturbed in zip(masks[::2], masks[1::2], strict=True):
        assert torch.equal(clean, perturbed)
    assert not torch.equal(masks[0], masks[2])


def test_the_random_state_after_a_step_is_that_of_one_forward_pass_per_microbatch(make_net, make_batch, closure_of):
    model, (inputs, targets) = make_net(torch.float64, nn.Dropout(0.5)), make_batch(11)
    torch.manual_seed(3)
    resting(model, num_microbatches=3).step(closure_of(model), (inputs, targets))
    after = torch.get_rng_state()
    torch.manual_seed(3)
    for part in inputs.split(SHARDS):
        model(part)
    assert torch.equal(after, torch.get_rng_state())


def normalized(make_net):
    return make_net(torch.float64, nn.BatchNorm1d(5))


def test_running_statistics_are_those_of_the_clean_passes_alone(make_net, make_batch, closure_of):
    model, (inputs, targets) = normalized(make_net), make_batch(11)
    clean = copy.deepcopy(model)
    resting(model, num_microbatches=3).step(closure_of(model), (inputs, targets))
    for part in inputs.split(SHARDS):
        clean(part)
    for name, buffer in clean.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name)), name
    assert model[1].num_batches_tracked == 3


@pytest.mark.parametrize("call", [1, 2, 3, 6])
def test_after_an_error_in_any_pass_buffers_are_what_they_were_before_the_step(call, make_net, make_batch, closure_of):
    model, batch = normalized(make_net), make_batch(11)
    before = copy.deepcopy(model)
    with pytest.raises(ArithmeticError):
        resting(model, num_microbatches=3).step(failing_at(closure_of(model), call), batch)
    for name, buffer in before.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name)), name


def test_without_a_perturbation_running_statistics_are_those_of_the_passes(make_net, make_batch, closure_of):
    model, (inputs, targets) = normalized(make_net), make_batch(11)
    clean = copy.deepcopy(model)
    mSAM(torch.optim.SGD(model.parameters(), lr=0.0), None, num_microbatches=3, module=model).step(
        closure_of(model), (inputs, targets)
    )
    for part in inputs.split(SHARDS):
        clean(part)
    assert torch.equal(clean[1].running_var, model[1].running_var)


class Averaging(nn.Module):
    """Counts its calls in a buffer that is replaced, not overwritten, and that starts as nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("nothing", None)

    def forward(self, inputs):
        self.calls = self.calls + 1
        return inputs


def test_a_buffer_that_a_module_replaces_is_put_back_too(make_net, make_batch, closure_of):
    model = make_net(torch.float64, Averaging())
    resting(model, num_microbatches=3).step(closure_of(model), make_batch(11))
    assert model[1].calls == 3
    assert dict(model.named_buffers())["1.calls"] is model[1].calls


def test_buffers_are_put_back_when_somebody_interrupts():
    norm = nn.BatchNorm1d(2)

    def interrupted():
        with buffers_kept_on_error(norm):
            norm.running_mean.add_(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert norm.running_mean.tolist() == [0, 0]


def test_buffers_of_no_module_are_no_buffers():
    with buffers_kept(None):
        pass


@pytest.mark.parametrize("still", [False, True])
def test_moved_weights_are_put_back_after_an_error(still):
    one, two = (nn.Parameter(torch.tensor([0.1, 0.7])) for _ in range(2))
    copies = [weight.detach().clone() for weight in (one, two)]

    def spoil():
        with WeightsKept([one, two]) as weights:
            weights.move([torch.ones(2) / 3, None if still else torch.ones(2)])
            assert not torch.equal(one, copies[0])
            assert torch.equal(two, copies[1]) is still
            one.data.fill_(float("nan"))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        spoil()
    assert torch.equal(one, copies[0])
    assert torch.equal(two, copies[1])


def test_weights_are_copied_anew_where_they_were_written_into_or_others_move():
    one, two = (nn.Parameter(torch.tensor([0.1, 0.7])) for _ in range(2))
    with WeightsKept([one, two]) as weights:
        for shift in ([torch.ones(2), None], [torch.ones(2), None], [None, torch.ones(2)], [torch.ones(2)] * 2):
            for weight in (one, two):
                weight.detach().add_(1)
            before = [weight.detach().clone() for weight in (one, two)]
            weights.move(shift)
            weights.put_back()
            assert torch.equal(one, before[0])
            assert torch.equal(two, before[1])


def test_what_is_written_into_weights_after_they_were_put_back_stays():
    weight = torch.zeros(2)
    with WeightsKept([weight]) as kept:
        kept.move([torch.ones(2)])
        kept.put_back()
        weight.add_(5)
    assert weight.tolist() == [5, 5]


def test_a_restored_random_state_draws_the_same_numbers_again():
    state = RandomState(torch.device("cpu"))
    first = torch.rand(5)
    state.restore()
    assert torch.equal(first, torch.rand(5))
