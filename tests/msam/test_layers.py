"""Every rule of a layer, against one micro-batch after another: one gradient, to rounding."""

from __future__ import annotations

import pytest
import torch
from networks import ASCENTS, NETS, B, closure_of, images, net, require_same, step_of
from torch import nn

from msam.execution import OneByOne
from msam.layerwise import Layerwise
from msam.vectorised import Vectorised


@pytest.mark.parametrize("ascent", ASCENTS, ids=["gradient", "adaptive"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, B])
@pytest.mark.parametrize("name", NETS)
def test_the_gradient_is_that_of_one_after_another(name, number, ascent):
    model, batch = net(name)
    require_same(step_of(model, batch, number, ascent), Layerwise())


@pytest.mark.parametrize("name", NETS)
def test_only_some_weights_are_perturbed(name):
    model, batch = net(name)
    number = len(list(model.parameters()))
    for parity in (0, 1):
        perturbed = [index % 2 == parity for index in range(number)]
        if any(perturbed):
            require_same(step_of(model, batch, 3, ASCENTS[0], perturbed=perturbed), Layerwise())


@pytest.mark.parametrize("name", NETS)
def test_some_weights_are_frozen(name):
    model, batch = net(name)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 1)
    require_same(step_of(model, batch, 3, ASCENTS[0]), Layerwise())


@pytest.mark.parametrize("number", [1, 3, 5, B])
@pytest.mark.parametrize("ascent", ASCENTS, ids=["gradient", "adaptive"])
def test_a_linear_layer_with_its_weight_turned_is_one(ascent, number):
    turned = pytest.importorskip("transformers.pytorch_utils", reason="the extra hf is not installed").Conv1D
    torch.manual_seed(2)
    shared = turned(6, 6)
    body = [turned(6, 4), nn.Tanh(), shared, nn.Tanh(), shared, nn.Flatten(), turned(20, 18), nn.Tanh(), turned(3, 20)]
    model = nn.Sequential(*body).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    batch = images(3, 4), torch.arange(B) % 3
    step = step_of(model, batch, number, ascent)
    require_same(step, Layerwise())
    assert all(slope.is_contiguous() for slope in Layerwise().outcome(step).gradient)  # as the weights are
    for parity in (0, 1):
        perturbed = [index % 2 == parity for index in range(len(step.parameters))]
        require_same(step_of(model, batch, number, ascent, perturbed=perturbed), Layerwise())


def test_places_may_be_as_many_as_examples():
    model, (rows, targets) = net("numbered words")
    execution = Layerwise()
    require_same(step_of(model, (rows, targets), 3, ASCENTS[0]), execution)
    few = rows[:5], targets[:5]
    assert few[0].shape == (5, 5)
    require_same(step_of(model, few, 3, ASCENTS[0]), execution)
    with pytest.warns(UserWarning, match="its gradient was off"):  # where nothing has told them from examples
        Layerwise().outcome(step_of(model, few, 3, ASCENTS[0]))


@pytest.mark.parametrize("name", ["mlp", "patches", "residual"])
def test_the_gradient_is_times_the_scale_of_the_loss(name):
    model, batch = net(name)
    require_same(step_of(model, batch, 3, ASCENTS[0], scale=1024.0), Layerwise())


def test_it_carries_out_the_micro_batches_of_one_process():
    model, batch = net("residual")
    require_same(step_of(model, batch, 5, ASCENTS[0], own=range(1, 4)), Layerwise())
    step = step_of(model, batch, 5, ASCENTS[0], own=range(1, 4))
    assert Layerwise().outcome(step).denominator == 6  # of 3, 2, 2, 2, 2
    assert torch.equal(step_of(model, batch, 5, ASCENTS[0], own=range(2, 4)).own_batch[0], batch[0][5:9])


def test_an_overflow_is_noticed_in_either_pass():
    model, batch = net("mlp")
    execution = Layerwise()
    step = step_of(model, batch, 3, ASCENTS[0], scale=1.0)
    assert bool(execution.outcome(step).finite)
    for calls_before in (0, 1):
        calls = []

        def closure(part, calls=calls, calls_before=calls_before):
            calls.append(None)
            return closure_of(model)(part) * (float("inf") if len(calls) == calls_before + 1 else 1.0)

        outcome = execution.outcome(step_of(model, batch, 3, ASCENTS[0], scale=1.0, closure=closure))
        assert not bool(outcome.finite)
    assert execution.reason is None


@pytest.mark.parametrize("execution", [OneByOne(), Layerwise(), Vectorised(memory=2**20)], ids=repr)
def test_where_the_length_of_a_gradient_overflows_there_is_no_step_without_a_perturbation(execution):
    model, batch = net("mlp")
    parameters = list(model.parameters())
    steep = lambda part: closure_of(model)(part) * 1e200  # noqa: E731
    clean = torch.autograd.grad(steep(batch), parameters)
    assert all(bool(slope.isfinite().all()) for slope in clean)
    outcome = execution.outcome(step_of(model, batch, 3, ASCENTS[0], scale=1.0, closure=steep))
    assert not bool(outcome.finite)
    assert all(bool(slope.isnan().any()) for slope in outcome.gradient)


def test_an_overflow_on_the_first_step_does_not_count_against_it():
    model, batch = net("mlp")
    execution = Layerwise()
    closure = lambda part: closure_of(model)(part) * float("inf")  # noqa: E731
    for scale in (2.0, None):  # None: it is not looked for
        outcome = execution.outcome(step_of(model, batch, 3, ASCENTS[0], scale=scale, closure=closure))
        assert bool(outcome.finite) is (scale is None)
    require_same(step_of(model, batch, 3, ASCENTS[0]), execution)


def test_means_over_what_the_closure_reports_are_weighted_by_it():
    model, (inputs, targets) = net("mlp")
    weights = torch.tensor([1.0, 4.0, 0.3]).double()
    targets = targets.clone()
    targets[:4] = -100  # the first micro-batch has nothing to average

    def closure(part):
        loss = nn.functional.cross_entropy(model(part[0]), part[1], weight=weights)
        return loss, weights[part[1][part[1] != -100]].sum()

    execution = Layerwise()
    require_same(step_of(model, (inputs, targets), 3, ASCENTS[0], closure=closure), execution)
    nothing = step_of(model, (inputs, torch.full_like(targets, -100)), 3, ASCENTS[0], closure=closure)
    for each in (execution, Layerwise()):  # of which one has been held against the other, and one has not
        outcome = each.outcome(nothing)
        assert (outcome.denominator, float(outcome.loss)) == (0, 0)  # not 0/0, which would spoil what others sum
        assert outcome.gradient == [None] * 4


@pytest.mark.parametrize("name", ["mlp", "patches", "residual", "words", "self-attention"])
def test_under_autocast_it_rounds_as_coarsely_and_no_more(name):
    model, batch = net(name)
    model.float()
    batch = tuple(part.float() if part.is_floating_point() else part for part in batch)

    def closure(part):
        with torch.autocast("cpu", torch.bfloat16):
            return closure_of(model)(part)

    step = step_of(model, batch, 3, ASCENTS[0], closure=closure)
    execution = Layerwise()
    ours, theirs = execution.outcome(step), OneByOne().outcome(step)
    exact = OneByOne().outcome(step_of(model, batch, 3, ASCENTS[0]))
    assert execution.reason is None

    def far(outcome):
        pairs = zip(outcome.gradient, exact.gradient, strict=True)
        return torch.cat([(a - b).flatten() for a, b in pairs]).norm()

    assert all(slope.dtype == torch.float32 for slope in ours.gradient)
    assert far(ours) <= 1.5 * far(theirs)
