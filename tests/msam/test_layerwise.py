"""All micro-batches at once, layer by layer, give the gradient of one after another; what cannot be taken says why."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from networks import ASCENTS, NETS, B, closure_of, images, net, require_same, step_of
from torch import nn

from landscape import GradientAscent
from landscape.shards import Shards
from msam import mSAM
from msam.execution import OneByOne
from msam.layerwise import Layerwise
from msam.vectorised import Vectorised


def optimizer_of(model, number, execution, *, rho=0.1, seed=None):
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.2, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=rho), num_microbatches=number, module=model, execution=execution, seed=seed)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_it_takes_the_steps_of_one_after_another(name, number):
    model, batch = net(name)
    other = copy.deepcopy(model)
    execution = Layerwise()
    ours, theirs = optimizer_of(model, number, execution), optimizer_of(other, number, OneByOne())
    for _ in range(3):
        loss, expected = ours.step(closure_of(model), batch), theirs.step(closure_of(other), batch)
        assert torch.allclose(loss, expected, rtol=1e-12)
    assert execution.reason is None
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", [4, 8])
def test_a_micro_batch_without_a_slope_is_not_perturbed_and_leaves_the_others_alone(number):
    x, weight = 3 * torch.randn(8, 20, generator=torch.Generator().manual_seed(0)), torch.ones(8)
    first = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1))
    models = [copy.deepcopy(first), copy.deepcopy(first)]
    for model, execution in zip(models, (Layerwise(), OneByOne()), strict=True):
        optimizer = optimizer_of(model, number, execution)
        for slopes in (1.0, 0.0):  # with the comparison of the two, and without
            weight[:2] = slopes
            optimizer.step(lambda b, model=model: (model(b[0])[:, 0].square() * b[1]).mean(), (x, weight))
        assert getattr(execution, "reason", None) is None
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_frozen_weights_are_not_perturbed():
    model, batch = net("attention")
    model[0].weight.requires_grad_(False)
    model[1].norm.bias.requires_grad_(False)
    other = copy.deepcopy(model)
    execution = Layerwise()
    optimizer_of(model, 3, execution).step(closure_of(model), batch)
    optimizer_of(other, 3, OneByOne()).step(closure_of(other), batch)
    assert execution.reason is None
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-13)


def test_both_passes_see_the_same_dropout_mask_and_the_random_state_moves_on_once():
    torch.manual_seed(2)
    dropout = nn.Dropout(0.5)
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 8), dropout, nn.Linear(8, 3)).double()
    masks = []
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    optimizer, batch = optimizer_of(model, 4, Layerwise()), (images(5), torch.zeros(B, dtype=torch.long))
    optimizer.step(closure_of(model), batch)
    assert optimizer.execution.reason is None
    masks.clear()
    torch.manual_seed(5)
    optimizer.step(closure_of(model), batch)
    after = torch.get_rng_state()
    assert torch.equal(*masks)
    torch.manual_seed(5)
    model(batch[0])
    assert torch.equal(after, torch.get_rng_state())


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("whole", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.passes, self.whole = self.passes + 1, self.whole.add_(1)
        return self.layer(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_change_in_the_first_pass_alone(dtype):
    model, batch = Counting().to(dtype), (images(5).to(dtype), torch.zeros(B, dtype=torch.long))
    optimizer = optimizer_of(model, 3, Layerwise())
    for _ in range(2):
        optimizer.step(closure_of(model), batch)
    assert optimizer.execution.reason is None
    assert model.passes == model.whole == 2  # of all micro-batches at once


def test_weights_gradients_and_forwards_are_what_they_were_after_an_error_in_either_pass():
    model, batch = net("words")
    optimizer = optimizer_of(model, 3, Layerwise())
    optimizer.step(closure_of(model), batch)
    before = copy.deepcopy(model.state_dict())
    for fail_at in (1, 2):
        calls = []

        def closure(part, calls=calls, fail_at=fail_at):
            calls.append(None)
            if len(calls) == fail_at:
                raise RuntimeError("no more")
            return closure_of(model)(part)

        with pytest.raises(RuntimeError, match="no more"):
            optimizer.step(closure, batch)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any("forward" in layer.__dict__ for layer in model.modules())


class Batchwise(nn.Module):
    """From the third step on, the loss compares examples with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.together = False

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(0) ** 2 if self.together else y


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
def test_it_is_held_against_the_other_again_from_time_to_time_and_where_the_batch_is_split_anew(execution):
    def started(check_every):
        torch.manual_seed(3)
        model = Batchwise().double()
        running = execution(check_every=check_every)
        batch = (images(5), torch.zeros(B, dtype=torch.long))
        for _ in range(2):
            running.outcome(step_of(model, batch, 3, ASCENTS[0]))
        model.together = execution is Layerwise
        return model, running, batch

    model, running, batch = started(1000)
    running.outcome(step_of(model, batch, 3, ASCENTS[0]))
    assert running.reason is None
    if execution is Layerwise:
        with pytest.warns(UserWarning, match="its gradient was off by"):
            running.outcome(step_of(model, batch, 4, ASCENTS[0]))
        model, running, batch = started(2)
        with pytest.warns(UserWarning, match="its gradient was off by"):
            running.outcome(step_of(model, batch, 3, ASCENTS[0]))
    with pytest.raises(ValueError, match="check_every must be at least 1; got 0"):
        execution(check_every=0)


def test_a_layer_that_is_replaced_between_two_steps_is_seen():
    model, batch = net("mlp")
    execution = Layerwise()
    execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
    model[0].weight = nn.Parameter(torch.randn_like(model[0].weight))
    step = step_of(model, batch, 3, ASCENTS[0])
    pairs = zip(execution.outcome(step).gradient, OneByOne().outcome(step).gradient, strict=True)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in pairs)


def test_a_frozen_weight_that_is_replaced_between_two_steps_is_seen():
    model, batch = net("mlp")
    model[0].bias.requires_grad_(False)
    execution = Layerwise()
    execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
    model[0].bias = nn.Parameter(torch.randn_like(model[0].bias), requires_grad=False)
    require_same(step_of(model, batch, 3, ASCENTS[0]), execution)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_an_execution_in_use_can_be_copied(duplicate):
    model, batch = net("patches")
    optimizer = optimizer_of(model, 3, Layerwise())
    optimizer.step(closure_of(model), batch)
    twin, optimizer_of_twin = duplicate((model, optimizer))
    for _ in range(2):
        optimizer.step(closure_of(model), batch)
        optimizer_of_twin.step(closure_of(twin), batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_without_a_perturbation_it_is_one_after_another():
    model, batch = net("mlp")
    other = copy.deepcopy(model)
    optimizer_of(model, 3, Layerwise(), rho=0.0).step(closure_of(model), batch)
    optimizer_of(other, 3, OneByOne(), rho=0.0).step(closure_of(other), batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("interleaved", [False, True])
def test_shards_cut_and_join_a_ragged_batch(interleaved):
    shards = Shards.of([3, 3, 2, 2, 1], interleaved=interleaved)
    plain = torch.arange(44).view(11, 2, 2)
    rows = shards.arranged(plain)
    assert torch.equal(rows[:, 0, 0] // 4, torch.tensor([0, 3, 1, 4, 2, 5, 6, 8, 7, 9, 10])) == interleaved
    blocks = list(shards.cut(rows))
    assert all(torch.equal(a, b) for a, b in zip(blocks, Shards.of([3, 3, 2, 2, 1]).cut(plain), strict=True))
    assert [tuple(block.shape) for block in blocks] == [(2, 3, 2, 2), (2, 2, 2, 2), (1, 1, 2, 2)]
    assert torch.equal(shards.join(blocks), rows)
    folded = list(shards.fold(rows))
    assert [tuple(block.shape) for block in folded] == [(3, 4, 2), (2, 4, 2), (1, 2, 2)]
    assert torch.equal(folded[0][:, 2:], plain[3:6])  # the second micro-batch
    assert torch.equal(shards.unfold(folded), rows)
    assert (folded[0].data_ptr() == rows.data_ptr()) == interleaved  # no copy
