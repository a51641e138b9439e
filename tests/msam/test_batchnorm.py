"""The three policies for batch norm against normalisation by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from landscape import GradientAscent
from msam import BatchStatistics, Layerwise, OneByOne, RunningStatistics, ShardStatistics, mSAM
from tests.msam.normalised import NUMBER, RHO, Net, msam_by_hand, running_by_hand, step

KINDS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "without affine": {"affine": False},
    "without running statistics": {"track_running_stats": False},
}
POLICIES = [ShardStatistics(), BatchStatistics(), RunningStatistics()]


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


@pytest.mark.parametrize("policy", [BatchStatistics(), RunningStatistics()], ids=lambda policy: type(policy).__name__)
def test_a_policy_that_needs_the_model_says_so(policy, make_batch):
    model = Net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(RHO), batch_norm=policy)
    with pytest.raises(ValueError, match="a policy for batch norm needs the model: give mSAM the module"):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), make_batch(11))


@pytest.mark.parametrize("policy", [BatchStatistics(), RunningStatistics()], ids=lambda policy: type(policy).__name__)
def test_layer_by_layer_gives_the_same_where_batch_norm_is_a_constant_without_weights(policy, make_batch):
    found = []
    for execution in (OneByOne(), Layerwise()):
        model = Net(affine=False)
        step(model, policy, make_batch(11), execution=execution)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
