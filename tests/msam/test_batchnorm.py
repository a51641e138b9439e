"""The three policies for batch norm against normalisation by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import BatchStatistics, Layerwise, OneByOne, RunningStatistics, ShardStatistics, mSAM

KINDS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "without affine": {"affine": False},
    "without running statistics": {"track_running_stats": False},
}
POLICIES = [ShardStatistics(), BatchStatistics(), RunningStatistics()]
NUMBER, RHO = 3, 0.3


class Net(nn.Module):
    """4 -> 5, batch norm, tanh -> 3."""

    def __init__(self, **settings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.inner, self.norm, self.outer = nn.Linear(4, 5), nn.BatchNorm1d(5, **settings), nn.Linear(5, 3)
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        if self.norm.track_running_stats:
            self.norm.running_mean.copy_(torch.randn(5, generator=generator))
            self.norm.running_var.copy_(torch.rand(5, generator=generator) + 0.5)

    def forward(self, x):
        return self.outer(self.norm(self.inner(x)).tanh())


def loss_by_hand(weights, x, y, statistics):
    """The same net from its weights, normalised by (mean, variance), or by its own where that is None."""
    w = dict(weights)
    hidden = x @ w["inner.weight"].T + w["inner.bias"]
    mean, variance = statistics or (hidden.mean(0), hidden.var(0, correction=0))
    hidden = (hidden - mean) / (variance + 1e-5).sqrt()
    if "norm.weight" in w:
        hidden = hidden * w["norm.weight"] + w["norm.bias"]
    return functional.cross_entropy(hidden.tanh() @ w["outer.weight"].T + w["outer.bias"], y)


def slopes_by_hand(weights, *rest):
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    slopes = torch.autograd.grad(loss_by_hand(leaves, *rest), list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(w) if s is None else s for (name, w), s in zip(leaves.items(), slopes, strict=True)}


def msam_by_hand(weights, x, y, statistics):
    total, start = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for i in range(NUMBER):
        stop = start + len(x) // NUMBER + (i < len(x) % NUMBER)
        part = slice(start, stop)
        g = slopes_by_hand(weights, x[part], y[part], statistics)
        length = torch.cat([s.flatten() for s in g.values()]).norm()
        moved = {name: w + RHO * g[name] / length for name, w in weights.items()}
        h = slopes_by_hand(moved, x[part], y[part], statistics)
        total = {name: total[name] + (stop - start) / len(x) * h[name] for name in total}
        start = stop
    return total


def running_by_hand(before, parts, momentum):
    """Running mean and variance after these inputs, one after another."""
    mean, variance, seen = before
    for hidden in parts:
        seen = seen + 1
        share = 1 / seen if momentum is None else momentum
        mean = mean * (1 - share) + share * hidden.mean(0)
        variance = variance * (1 - share) + share * hidden.var(0)
    return mean, variance, seen


def step(model, policy, batch, **settings):
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=NUMBER, module=model, batch_norm=policy, **settings)
    return optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_step_is_that_of_normalisation_by_hand(policy, kind, make_batch):
    model, (x, y) = Net(**KINDS[kind]), make_batch(11)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    norm = model.norm
    tracked = norm.track_running_stats
    before = (norm.running_mean.clone(), norm.running_var.clone(), 0) if tracked else None
    hidden = x @ weights["inner.weight"].T + weights["inner.bias"]
    statistics = {
        ShardStatistics: None,
        BatchStatistics: (hidden.mean(0), hidden.var(0, correction=0)),
        RunningStatistics: before[:2] if tracked else None,  # torch has none to use, and takes the micro-batch's
    }[type(policy)]
    expected = msam_by_hand(weights, x, y, statistics)
    step(model, policy, (x, y))
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-12)
    assert norm.training
    if tracked:
        parts = {ShardStatistics: hidden.split([4, 4, 3]), BatchStatistics: [hidden], RunningStatistics: []}
        mean, variance, seen = running_by_hand(before, parts[type(policy)], norm.momentum)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-12, atol=1e-13)
        assert norm.num_batches_tracked == seen
    else:
        assert norm.running_mean is None
        assert norm.running_var is None


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
    for policy, possible in ((BatchStatistics(), True), (ShardStatistics(), False)):
        model = Net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=11, module=model, batch_norm=policy)
        closure = lambda b, model=model: functional.cross_entropy(model(b[0]), b[1])  # noqa: E731
        if possible:
            assert torch.isfinite(optimizer.step(closure, make_batch(11)))
        else:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [0, 1, 2, 4])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_after_an_error_in_any_pass_everything_is_as_before(policy, call, kind, make_batch):
    model = Net(**KINDS[kind])
    buffers = dict(model.named_buffers())
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def closure(batch):
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        calls.append(1)
        if len(calls) > call:
            raise RuntimeError("out of memory")
        return loss

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=NUMBER, module=model, batch_norm=policy)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure, make_batch(11))
    assert model.norm.training
    assert model.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(dict(model.named_buffers())[name] is buffer for name, buffer in buffers.items())
    assert not model.norm._forward_pre_hooks
    assert (model.norm.running_mean is None) == (kind == "without running statistics")


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


@pytest.mark.parametrize("policy", [BatchStatistics(), RunningStatistics()], ids=lambda policy: type(policy).__name__)
def test_a_policy_that_needs_the_model_says_so(policy, make_batch):
    model = Net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(RHO), batch_norm=policy)
    with pytest.raises(ValueError, match="a policy for batch norm needs the model: give mSAM the module"):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), make_batch(11))


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
    model.norm.register_forward_pre_hook(lambda layer, inputs: seen.append((inputs[0].dtype, layer.running_mean.dtype)))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=2, module=model, batch_norm=BatchStatistics())
    assert torch.isfinite(optimizer.step(closure, (x, y)))
    assert set(seen) == {(torch.bfloat16, torch.float32)}


@pytest.mark.parametrize("policy", [BatchStatistics(), RunningStatistics()], ids=lambda policy: type(policy).__name__)
def test_layer_by_layer_gives_the_same_where_batch_norm_is_a_constant_without_weights(policy, make_batch):
    found = []
    for execution in (OneByOne(), Layerwise()):
        model = Net(affine=False)
        step(model, policy, make_batch(11), execution=execution)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
