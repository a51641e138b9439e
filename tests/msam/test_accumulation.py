"""Micro-batches of several batches, micro-batches in parts, streams of random numbers, and reports on them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import FriendlyAscent, GradientAscent
from msam import OneByOne, mSAM


def optimizer_on(model, number, **settings):
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=0.2), num_microbatches=number, module=model, **settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_a_micro_batch_in_parts_is_perturbed_as_a_whole(limit, make_net, make_batch, closure_of):
    whole, parts = make_net(), make_net()
    ordinary = optimizer_on(whole, 3)
    in_parts = optimizer_on(parts, 3, execution=OneByOne(device_batch_size=limit))
    for seed in range(3):
        expected = ordinary.step(closure_of(whole), make_batch(11, seed=seed))
        loss = in_parts.step(closure_of(parts), make_batch(11, seed=seed))
        assert torch.allclose(loss, expected, rtol=1e-13)
    assert torch.allclose(weights(parts), weights(whole), rtol=1e-12)


@pytest.mark.parametrize(
    ("number", "targets"),
    [
        (2, [2, 2, 0, 1, 0, 2, 1, 0, 1, 0, 0, 1, 1]),  # the first part of a micro-batch has nothing to average
        (3, [2, 2, 2, 2, 2, 0, 2, 1, 0, 1, 1, 2, 2]),  # a whole micro-batch has nothing
    ],
)
def test_parts_are_weighted_by_what_the_closure_reports(number, targets, make_net, make_batch):
    def reporting(model):
        def closure(batch):
            inputs, targets = batch
            return functional.cross_entropy(model(inputs), targets, ignore_index=2), (targets != 2).sum()

        return closure

    whole, parts, batch = make_net(), make_net(), (make_batch(13)[0], torch.tensor(targets))
    expected = optimizer_on(whole, number).step(reporting(whole), batch)
    loss = optimizer_on(parts, number, execution=OneByOne(device_batch_size=2)).step(reporting(parts), batch)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert torch.allclose(weights(parts), weights(whole), rtol=1e-12)


@pytest.mark.parametrize(("number", "limit"), [(1, 3), (2, None)], ids=["parts", "micro-batches"])
def test_where_only_some_report_a_denominator_they_are_refused(number, limit, make_net, make_batch, closure_of):
    model, reporting = make_net(), itertools.cycle([False, False, True, True] if limit is None else [False, True])
    optimizer = optimizer_on(model, number, execution=OneByOne(device_batch_size=limit))
    with pytest.raises(ValueError, match="a denominator for some micro-batches and none for others"):
        optimizer.step(
            lambda b: (closure_of(model)(b), 2.0) if next(reporting) else closure_of(model)(b), make_batch(5)
        )


def test_accumulated_batches_are_so_many_more_micro_batches(make_net, make_batch, closure_of):
    together, apart = make_net(), make_net()
    inputs, targets = make_batch(12)
    one = optimizer_on(together, 4)
    loss = one.step(closure_of(together), (inputs, targets))
    two = optimizer_on(apart, 2)
    two.accumulate(closure_of(apart), (inputs[:6], targets[:6]))
    assert torch.equal(weights(apart), weights(make_net()))
    assert torch.allclose(two.step(closure_of(apart), (inputs[6:], targets[6:])), loss, rtol=1e-13)
    assert torch.allclose(weights(apart), weights(together), rtol=1e-12)
    assert two.steps == 1


def test_accumulated_batches_of_different_sizes_are_weighted_by_them(make_net, make_batch, closure_of):
    model = make_net()
    inputs, targets = make_batch(12)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=1.0), None)
    optimizer.accumulate(closure_of(model), (inputs[:9], targets[:9]))
    optimizer.step(closure_of(model), (inputs[9:], targets[9:]))
    other = make_net()
    closure_of(other)((inputs, targets)).backward()
    torch.optim.SGD(other.parameters(), lr=1.0).step()
    assert torch.allclose(weights(model), weights(other), rtol=1e-12)


def noisy():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.4), nn.Linear(8, 3)).double()


def test_streams_of_random_numbers_depend_on_seed_step_and_micro_batch_alone(make_batch):
    def seen(seed, noise):
        masks = []
        torch.manual_seed(noise)
        model = noisy()

        def closure(batch):
            masks.append(torch.rand(2))
            return functional.cross_entropy(model(batch[0]), batch[1])

        torch.manual_seed(noise)
        before = torch.get_rng_state()
        optimizer = optimizer_on(model, 2, seed=seed)
        for _ in range(2):
            optimizer.step(closure, make_batch(8))
        assert torch.equal(before, torch.get_rng_state())
        return torch.stack(masks)

    masks = seen(1, 0)
    assert torch.equal(masks, seen(1, 99))
    assert not torch.equal(masks, seen(2, 0))
    assert torch.equal(masks[0::2], masks[1::2])  # both passes of a micro-batch
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(masks[0::2], 2))


def test_streams_go_on_where_a_state_dict_left_them(make_batch):
    def closure_on(model):
        return lambda batch: functional.cross_entropy(model(batch[0]), batch[1])

    whole = noisy()
    optimizer = optimizer_on(whole, 2, seed=1)
    for seed in range(2):
        optimizer.step(closure_on(whole), make_batch(8, seed=seed))
    resumed, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    optimizer.step(closure_on(whole), make_batch(8, seed=5))
    other = optimizer_on(resumed, 2, seed=1)
    other.load_state_dict(state)
    other.step(closure_on(resumed), make_batch(8, seed=5))
    assert torch.equal(weights(resumed), weights(whole))
    assert other.steps == 3


def test_the_report_on_micro_batches_is_what_each_is_on_its_own(make_net, make_batch, closure_of):
    model = make_net()
    start = copy.deepcopy(model)
    optimizer = optimizer_on(model, 3, observes=True)
    inputs, targets = make_batch(11)
    calls = []
    optimizer.step(lambda part: calls.append(1) or closure_of(model)(part), (inputs, targets))
    assert len(calls) == 6  # the report costs no pass
    report = optimizer.per_shard
    assert report.sizes.tolist() == [4, 4, 3]
    units = []
    for i, (first, last) in enumerate([(0, 4), (4, 8), (8, 11)]):
        shifted = copy.deepcopy(start)
        part = (inputs[first:last], targets[first:last])
        loss = closure_of(shifted)(part)
        slopes = torch.autograd.grad(loss, list(shifted.parameters()))
        gradient = torch.cat([slope.flatten() for slope in slopes])
        assert torch.allclose(report.losses[i], loss, rtol=1e-13)
        assert torch.allclose(report.gradient_norms[i], gradient.norm(), rtol=1e-13)
        with torch.no_grad():
            for p, slope in zip(shifted.parameters(), slopes, strict=True):
                p.add_(slope * 0.2 / gradient.norm())
        assert torch.allclose(report.rises[i], closure_of(shifted)(part) - loss, rtol=1e-10)
        units.append(gradient / gradient.norm())
    cosines = [float(a @ b) for a, b in itertools.combinations(units, 2)]
    assert report.mean_cosine == pytest.approx(sum(cosines) / 3, rel=1e-12)


def test_the_report_on_accumulated_batches_is_on_the_micro_batches_of_all_of_them(make_net, make_batch, closure_of):
    model = make_net()
    batches = [make_batch(9), make_batch(4, seed=1), make_batch(2, seed=2)]
    both = tuple(torch.cat(columns) for columns in zip(*batches, strict=True))
    apart, together = optimizer_on(model, 1, observes=True), optimizer_on(model, 15, observes=True)
    for m, batch in zip((9, 4, 2), batches, strict=True):
        apart.num_microbatches = m
        apart.accumulate(closure_of(model), batch)
    together.accumulate(closure_of(model), both)
    ours, theirs = dataclasses.asdict(apart.per_shard), dataclasses.asdict(together.per_shard)
    for name, value in theirs.items():
        torch.testing.assert_close(torch.as_tensor(ours[name]), torch.as_tensor(value), rtol=1e-12, atol=1e-14)


def test_only_the_chosen_parameters_are_perturbed_and_all_are_stepped(make_net, make_batch, closure_of):
    model = make_net()
    start = copy.deepcopy(model)
    chosen = [model[0].weight, model[2].bias]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    mSAM(sgd, GradientAscent(rho=0.3), perturbed=chosen).step(closure_of(model), make_batch(9))
    shifted = copy.deepcopy(start)
    slopes = torch.autograd.grad(closure_of(shifted)(make_batch(9)), [shifted[0].weight, shifted[2].bias])
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    with torch.no_grad():
        shifted[0].weight.add_(0.3 * slopes[0] / length)
        shifted[2].bias.add_(0.3 * slopes[1] / length)
    slopes = torch.autograd.grad(closure_of(shifted)(make_batch(9)), list(shifted.parameters()))
    for p, q, slope in zip(model.parameters(), start.parameters(), slopes, strict=True):
        assert torch.allclose(p, q - slope, rtol=1e-12)


def test_where_all_that_is_perturbed_is_frozen_steps_are_those_of_the_base_optimizer(make_net, make_batch, closure_of):
    """Until it is trained again."""
    model, plain = make_net(), make_net()
    sgds = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, plain)]
    ascent = FriendlyAscent(0.1)
    optimizer = mSAM(sgds[0], ascent, num_microbatches=3, perturbed=model[0].parameters(), observes=True)
    for one in (model, plain):
        one[0].requires_grad_(False)
    base = mSAM(sgds[1], None, num_microbatches=3)
    for seed in range(2):
        optimizer.step(closure_of(model), make_batch(11, seed=seed))
        base.step(closure_of(plain), make_batch(11, seed=seed))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert optimizer.per_shard.gradient_norms.tolist() == [0, 0, 0]
    assert math.isnan(optimizer.per_shard.mean_cosine)
    assert ascent.momentum is None
    model[0].requires_grad_(True)
    optimizer.step(closure_of(model), make_batch(11))
    assert [tuple(part.shape) for part in ascent.momentum] == [(5, 4), (5,)]
    assert bool((optimizer.per_shard.rises > 0).all())


def test_bad_holdings_are_named(make_net):
    model, other = make_net(), make_net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="not parameters of module"):
        mSAM(sgd, None, module=other)
    with pytest.raises(ValueError, match="no parameters in it"):
        mSAM(sgd, None, perturbed=[])
    with pytest.raises(ValueError, match="1 of the parameters in perturbed"):
        mSAM(sgd, None, perturbed=[other[0].weight])
    state = torch.optim.AdamW(model.parameters()).state_dict()
    before = copy.deepcopy(sgd.state_dict())
    with pytest.raises(ValueError, match="another optimizer than this SGD: it lacks dampening"):
        mSAM(sgd, None).load_state_dict(state)
    with pytest.raises(ValueError, match="groups of"):
        mSAM(sgd, None).load_state_dict(torch.optim.SGD([other[0].weight], lr=1.0).state_dict())
    assert sgd.state_dict() == before


def test_a_data_parallel_model_is_refused(make_net):
    model = nn.DataParallel(make_net())
    with pytest.raises(ValueError, match="mSAM and DataParallel would each share out the work"):
        mSAM(torch.optim.SGD(model.parameters(), lr=0.1), None, module=model)
    outer = nn.Sequential(model)
    with pytest.raises(ValueError, match="call the plain model in the closure"):
        mSAM(torch.optim.SGD(outer.parameters(), lr=0.1), None, module=outer)
    sharded = type("FSDPLinear", (nn.Linear,), {})(2, 2)
    with pytest.raises(ValueError, match="mSAM and FSDPLinear would"):
        mSAM(torch.optim.SGD(sharded.parameters(), lr=0.1), None, module=sharded)


def test_accumulated_batches_that_do_not_go_together_are_refused(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = optimizer_on(model, 3)
    optimizer.accumulate(closure_of(model), make_batch(11))
    with pytest.raises(ValueError, match="a denominator for some micro-batches and none for others"):
        optimizer.accumulate(lambda b: (closure_of(model)(b), 4.0), make_batch(11))
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match="frozen, thawed or added between two accumulated batches; step before that"):
        optimizer.accumulate(closure_of(model), make_batch(11))


def test_as_many_weights_frozen_as_thawed_between_accumulated_batches_are_no_less_refused():
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)]
    optimizer = mSAM(torch.optim.SGD(weights, lr=0.1), GradientAscent(rho=0.1))
    closure = lambda x: (x * (weights[0] + 2 * weights[1])).mean()  # noqa: E731
    optimizer.accumulate(closure, torch.ones(3, 2))
    for weight in weights:
        weight.requires_grad_(not weight.requires_grad)
    with pytest.raises(ValueError, match="frozen, thawed or added between two accumulated batches"):
        optimizer.accumulate(closure, torch.ones(3, 2))
    optimizer.zero_grad()  # drops what was
    optimizer.step(closure, torch.ones(3, 2))
    assert weights[0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(weights[1].detach(), torch.full((2,), 0.9))


def test_a_closure_may_take_entries_out_of_its_mapping(make_net, make_batch):
    def closure_on(model, take):
        def closure(batch):
            targets = batch.pop("targets") if take else batch["targets"]
            return functional.cross_entropy(model(batch["inputs"]), targets)

        return closure

    taking, leaving = make_net(), make_net()
    inputs, targets = make_batch(8)
    for model, take in ((taking, True), (leaving, False)):
        optimizer_on(model, 2).step(closure_on(model, take), {"inputs": inputs, "targets": targets})
    assert torch.equal(weights(taking), weights(leaving))
