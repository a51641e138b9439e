"""Micro-batches through torch.func, against one after another; what it cannot take says why."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import ASCENTS, B, closure_of, images, net, require_same, step_of
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import OneByOne, mSAM
from msam.layerwise import Layerwise
from msam.vectorised import Vectorised

AMPLE = 2**30  # bytes, so that half of the micro-batches go at once


@pytest.mark.parametrize("ascent", ASCENTS, ids=["gradient", "adaptive"])
@pytest.mark.parametrize("number", [1, 3, 5, B])
@pytest.mark.parametrize("name", ["mlp", "attention", "tied", "called twice", "patches", "residual"])
def test_the_gradient_is_that_of_one_after_another(name, number, ascent):
    model, batch = net(name)
    require_same(step_of(model, batch, number, ascent), Vectorised(memory=AMPLE))


def test_what_torch_vectorises_wrongly_is_found_out():
    """Looking up padding in a stack of tables gives it a gradient (torch 2.13)."""
    model, batch = net("tied words")
    with pytest.warns(UserWarning, match="all at once with torch.func, but by OneByOne: on one batch its gradient"):
        Vectorised(memory=AMPLE).outcome(step_of(model, batch, 3, ASCENTS[0]))


@pytest.mark.parametrize("name", ["mlp", "patches", "residual"])
def test_chunks_scales_and_frozen_weights(name):
    model, batch = net(name)
    weights = list(model.parameters())
    largest = sum(p.numel() for p in weights) * 8
    for memory in (1, 6 * largest):  # one at a time, and two
        require_same(step_of(model, batch, 5, ASCENTS[0], scale=1024.0), Vectorised(memory=memory))
    require_same(step_of(model, batch, 5, ASCENTS[0], own=range(1, 4)), Vectorised(memory=AMPLE))
    perturbed = [index % 2 == 0 for index in range(len(weights))]
    require_same(step_of(model, batch, 3, ASCENTS[0], perturbed=perturbed), Vectorised(memory=AMPLE))
    for index, parameter in enumerate(weights):
        parameter.requires_grad_(index % 3 != 1)
    require_same(step_of(model, batch, 3, ASCENTS[0]), Vectorised(memory=AMPLE))
    assert all(p is q for p, q in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(("copies", "chunks"), [(1, 8), (6, 4), (11, 3), (1000, 2)])
def test_as_many_micro_batches_go_at_once_as_the_memory_holds_and_half_of_them_at_most(copies, chunks):
    """With room for so many copies of the weights, of which each micro-batch takes three."""
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 2
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    execution = Vectorised(memory=copies * 8 * 8)  # eight weights of eight bytes
    optimizer = mSAM(sgd, GradientAscent(0.1), num_microbatches=8, module=model, execution=execution)
    optimizer.step(closure_of(model), (x, y))  # which is held against one by one
    calls = []
    optimizer.step(lambda part: calls.append(part) or closure_of(model)(part), (x, y))
    assert execution.reason is None
    assert len(calls) == 2 * chunks


@pytest.mark.parametrize(("width", "chunks"), [(2, 3), (40, 2)])
def test_copies_take_half_of_what_sam_takes_unless_told_otherwise(width, chunks):
    """Of each of the 16 examples the graph keeps 16 bytes for the loss and 24 for each of some layers; weights are 64.

    A micro-batch takes 192, and half of SAM is 16·(16 + 24·width)/2 and twice the weights: 640, and enough.
    """
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 2
    calls = []

    def closure(part):
        calls.append(part)
        layers = [(part[0] * model.weight[0]).exp().sum() for _ in range(width)]
        return functional.cross_entropy(model(part[0]), part[1]) + 0.01 * sum(layers)

    execution = Vectorised()
    for _ in range(2):
        calls.clear()
        execution.outcome(step_of(model, (x, y), 8, ASCENTS[0], closure=closure))
    assert execution.reason is None
    assert len(calls) == 2 * chunks


def test_without_room_for_two_micro_batches_they_are_left_to_the_other_execution():
    model, (x, y) = nn.Linear(3, 2).double(), (torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 2)
    for memory, number, passes in ((None, 8, 0), (None, 1, 2), (1, 8, 16)):
        vectorised = []

        def closure(part, vectorised=vectorised):
            if torch._C._functorch.maybe_get_level(part[0]) > 0:
                vectorised.append(part)
            return closure_of(model)(part)

        execution = Vectorised(memory=memory)
        for _ in range(2):
            vectorised.clear()
            execution.outcome(step_of(model, (x, y), number, ASCENTS[0], closure=closure))
        assert (execution.reason, len(vectorised)) == (None, passes)


def test_what_is_measured_for_the_room_leaves_no_trace():
    left = []
    for execution in (Vectorised(), OneByOne()):
        torch.manual_seed(3)
        model = nn.Sequential(Counting(), nn.Dropout(0.5)).double()
        for number in range(3, B + 1):  # more ways of splitting than are checked
            execution.outcome(step_of(model, (images(5), torch.arange(B) % 3), number, ASCENTS[0]))
        left.append((model[0].seen.item(), torch.rand(()).item()))
    assert left[0] == left[1]
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(5, 3), nn.BatchNorm1d(3)).double().eval()
    )  # which has buffers, and room
    inputs = torch.randn(4 * B, 5, dtype=torch.float64)
    require_same(step_of(model, (inputs, torch.arange(4 * B) % 3), 4, ASCENTS[0]), Vectorised())


def test_reported_denominators():
    model, (inputs, targets) = net("mlp")
    weights = torch.tensor([1.0, 4.0, 0.3]).double()

    def closure(part):
        return functional.cross_entropy(model(part[0]), part[1], weight=weights), weights[part[1]].sum()

    require_same(step_of(model, (inputs, targets), 3, ASCENTS[0], closure=closure), Vectorised(memory=AMPLE))

    def mean_of_rows(part):
        kept = (part[1] > 0).to(inputs)
        rows = functional.cross_entropy(model(part[0]), part[1], reduction="none")
        return (rows * kept).sum() / kept.sum(), kept.sum()

    assert (targets[:4] > 0).any()
    targets = targets.clone()
    targets[:4] = 0  # the first micro-batch has nothing to average
    execution = Vectorised(memory=AMPLE)
    require_same(step_of(model, (inputs, targets), 3, ASCENTS[0], closure=mean_of_rows), execution)


def test_a_weighted_mean_within_each_micro_batch_is_taken_as_it_is():
    model, batch = net("mlp")
    weights = torch.tensor([1.0, 4.0, 0.3]).double()
    closure = lambda part: functional.cross_entropy(model(part[0]), part[1], weight=weights)  # noqa: E731
    require_same(step_of(model, batch, 3, ASCENTS[0], closure=closure), Vectorised(memory=AMPLE))


class Counting(nn.Module):
    """Counts how often it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        self.seen = self.seen + 1
        return self.layer(x)


class CountingInPlace(Counting):
    """Counts in the place of the count, by the one way that torch.func lets pass."""

    def forward(self, x):
        torch._foreach_add_([self.seen], 1)
        return self.layer(x)


class Looking(nn.Module):
    """Looks at a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        y = self.layer(x)
        return y if float(y.detach().sum()) > 0 else y * 2


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)), "draws random numbers"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "batch norm in training mode"),
        (Counting, "changes its buffers"),
        (CountingInPlace, "changes its buffers"),
        (Looking, "looks at the values of a tensor, as transformers do at an attention mask"),
    ],
)
def test_a_model_that_cannot_be_taken_falls_back_with_one_warning_that_says_why(build, reason):
    torch.manual_seed(3)
    model = build().double()
    batch = (images(5), torch.zeros(B, dtype=torch.long))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, execution=Vectorised(memory=AMPLE))
    weights = list(model.parameters())
    with pytest.warns(UserWarning, match=reason):
        optimizer.step(closure_of(model), batch)
    optimizer.step(closure_of(model), batch)
    assert all(p is q for p, q in zip(model.parameters(), weights, strict=True))
    if isinstance(model, Counting):
        assert model.seen == 6  # once for each micro-batch and step


def test_dropout_after_a_fallback_is_that_of_one_after_another():
    results = []
    for execution in (Vectorised(memory=AMPLE), None):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, execution=execution)
        batch = (images(5), torch.zeros(B, dtype=torch.long))
        if execution is None:
            optimizer.step(closure_of(model), batch)
        else:
            with pytest.warns(UserWarning, match="draws random numbers"):
                optimizer.step(closure_of(model), batch)
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="memory must be a positive number of bytes; got 0"):
        Vectorised(memory=0)
    assert repr(Vectorised(memory=5)) == "Vectorised(memory=5)"


class Twofold(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return (x @ self.first).tanh() + x @ self.second


def test_a_weight_under_two_names_of_a_layer_is_perturbed_under_both():
    model = Twofold().double()
    require_same(step_of(model, (images(5), torch.arange(B) % 3), 3, ASCENTS[0]), Vectorised(memory=AMPLE))


def test_what_is_one_for_all_examples_is_given_to_every_micro_batch():
    model, (inputs, targets) = net("mlp")
    batch = {"inputs": inputs, "targets": targets, "temperature": torch.tensor(0.5).double()}
    closure = lambda part: functional.cross_entropy(model(part["inputs"]) * part["temperature"], part["targets"])  # noqa: E731
    step = dataclasses.replace(step_of(model, (inputs, targets), 3, ASCENTS[0], closure=closure), batch=batch)
    require_same(step, Vectorised(memory=AMPLE))


def test_a_model_that_is_compiled_later_falls_back():
    model, batch = net("mlp")
    execution = Vectorised(memory=AMPLE)
    execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
    model[0].compile(backend="eager")
    with pytest.warns(UserWarning, match="0 is compiled; its layers cannot be taken apart"):
        execution.outcome(step_of(model, batch, 3, ASCENTS[0]))


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
def test_weights_that_are_not_in_the_module_are_left_to_one_after_another(execution):
    model, batch = net("mlp")
    head = nn.Linear(3, 3).double()
    step = step_of(
        model, batch, 3, ASCENTS[0], closure=lambda part: functional.cross_entropy(head(model(part[0])), part[1])
    )
    step = dataclasses.replace(step, parameters=[*step.parameters, *head.parameters()], perturbed=[True] * 6)
    with pytest.warns(UserWarning, match="the optimizer holds weights that are not in the module"):
        execution().outcome(step)
