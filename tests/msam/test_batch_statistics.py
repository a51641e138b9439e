"""Batch norm by the statistics of the whole batch: the pass that collects them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import BatchStatistics, OneByOne, RunningStatistics, ShardStatistics, mSAM
from tests.msam.normalised import NUMBER, RHO, Net, running_by_hand, step


def test_by_the_whole_batch_the_gradient_at_radius_zero_does_not_depend_on_the_number(make_batch):
    gradients = []
    for number in (1, 4, 11):
        model = Net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = mSAM(sgd, None, num_microbatches=number, module=model, batch_norm=BatchStatistics())
        optimizer.step(lambda b, model=model: functional.cross_entropy(model(b[0]), b[1]), make_batch(11))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-11, atol=1e-13)


def test_deeper_layers_see_what_the_whole_batch_makes_of_the_layers_before(make_batch):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3), nn.BatchNorm1d(3)).double()
    x, y = make_batch(11)
    with torch.no_grad():
        expected = functional.cross_entropy(model(x), y)  # in training mode, by the batch's own statistics
    loss = step(model, BatchStatistics(), (x, y))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_images_are_normalised_over_examples_and_places(make_batch):
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 3)).double()
    x, y = torch.randn(7, 1, 4, 4, dtype=torch.float64), make_batch(7)[1]
    with torch.no_grad():
        expected = functional.cross_entropy(model(x), y)
    torch.testing.assert_close(step(model, BatchStatistics(), (x, y)), expected, rtol=1e-12, atol=0)


def test_micro_batches_of_one_example_are_possible_by_the_whole_batch(make_batch):
    for policy, possible in ((BatchStatistics(), True), (RunningStatistics(), True), (ShardStatistics(), False)):
        model = Net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=11, module=model, batch_norm=policy)
        closure = lambda b, model=model: functional.cross_entropy(model(b[0]), b[1])  # noqa: E731
        if possible:
            assert torch.isfinite(optimizer.step(closure, make_batch(11)))
        else:
            with pytest.raises(
                ValueError, match="no variance to divide by in a single example; take fewer micro-batches"
            ):
                optimizer.step(closure, make_batch(11))


def test_the_pass_over_the_whole_batch_is_one_without_a_graph_and_everything_else_is_as_without_it(make_batch):
    model, calls, masks = Net(), [], []
    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, inputs, outputs: masks.append(outputs == 0))
    net = nn.Sequential(model, dropout)
    counter = torch.zeros(())
    net.register_buffer("count", counter)

    def closure(batch):
        calls.append((len(batch[0]), torch.is_grad_enabled()))
        counter.add_(1)
        return functional.cross_entropy(net(batch[0]) + 1, batch[1])

    def run(policy):
        calls.clear()
        masks.clear()
        counter.zero_()
        torch.manual_seed(3)
        sgd = torch.optim.SGD(net.parameters(), lr=0.0)
        optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=NUMBER, module=net, batch_norm=policy)
        optimizer.step(closure, make_batch(11))
        return list(calls), list(masks), torch.get_rng_state(), counter.item()

    plain_calls, plain_masks, plain_state, plain_count = run(ShardStatistics())
    our_calls, our_masks, our_state, our_count = run(BatchStatistics())
    assert our_calls == [(11, False), *plain_calls]
    assert all(torch.equal(a, b) for a, b in zip(our_masks[1:], plain_masks, strict=True))
    assert torch.equal(our_state, plain_state)
    assert our_count == plain_count == NUMBER


def test_with_a_seed_the_pass_does_not_depend_on_the_global_random_state(make_batch):
    found = []
    for seed in (0, 1):
        net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p).cos())
        torch.manual_seed(seed)
        step(net, BatchStatistics(), make_batch(11), seed=5)
        found.append((net[0].weight.grad, net[2].running_mean))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_layers_in_evaluation_mode_are_left_alone_and_without_others_there_is_no_pass(make_batch):
    model, calls = Net().eval(), []
    kept = {name: value.clone() for name, value in model.named_buffers()}
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=2, module=model, batch_norm=BatchStatistics())
    optimizer.step(lambda b: calls.append(1) or functional.cross_entropy(model(b[0]), b[1]), make_batch(11))
    assert len(calls) == 4
    assert not model.norm.training
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())


def test_a_layer_that_is_called_twice_is_refused_by_the_whole_batch(make_batch):
    class Twice(Net):
        def forward(self, x):
            return self.outer(self.norm(self.norm(self.inner(x))))

    model = Twice()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="a BatchNorm1d is called twice in one pass"):
        step(model, BatchStatistics(), make_batch(11))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_accumulated_batches_are_normalised_each_by_its_own(make_batch):
    model, (x, y) = Net(), make_batch(11)
    hidden = model.inner(x).detach()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), module=model, batch_norm=BatchStatistics())
    closure = lambda b: functional.cross_entropy(model(b[0]), b[1])  # noqa: E731
    before = (model.norm.running_mean.clone(), model.norm.running_var.clone(), 0)
    optimizer.accumulate(closure, (x[:6], y[:6]))
    optimizer.step(closure, (x[6:], y[6:]))
    mean, variance, _ = running_by_hand(before, [hidden[:6], hidden[6:]], 0.1)
    torch.testing.assert_close(model.norm.running_mean, mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model.norm.running_var, variance, rtol=1e-12, atol=1e-13)


def test_parts_of_a_micro_batch_are_normalised_by_the_whole_batch_as_well(make_batch):
    found = []
    for execution in (OneByOne(), OneByOne(device_batch_size=2)):
        model = Net()
        step(model, BatchStatistics(), make_batch(11), execution=execution)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_half_precision_is_averaged_in_single(make_batch):
    model, (x, y) = Net().float(), make_batch(11, dtype=torch.float32)

    def closure(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return functional.cross_entropy(model(batch[0]).float(), batch[1])

    seen = []
    model.norm.register_forward_pre_hook(lambda layer, inputs: seen.append((inputs[0], layer.running_mean.clone())))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=2, module=model, batch_norm=BatchStatistics())
    assert torch.isfinite(optimizer.step(closure, (x, y)))
    (whole, _), *others = seen
    assert whole.dtype == torch.bfloat16
    for _, used in others:
        torch.testing.assert_close(used, whole.float().mean(0), rtol=1e-6, atol=1e-7)
