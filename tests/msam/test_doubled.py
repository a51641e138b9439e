"""Executions are also compared in double precision, on a few examples, and the model is afterwards what it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from networks import ASCENTS, NETS, closure_of, net, step_of
from torch import nn
from torch.nn import functional

from landscape.widened import Narrowing
from msam.doubled import doubled
from msam.guarded import FINE
from msam.layerwise import Layerwise


def in_single(name):
    model, batch = net(name)
    return model.float(), tuple(part.float() if part.is_floating_point() else part for part in batch)


def with_a_term(model, size):
    """A mean, and a little that is none."""

    def closure(batch):
        logits = model(batch[0])
        return functional.cross_entropy(logits, batch[1]) + size * logits.mean(0).square().sum()

    return closure


@pytest.mark.parametrize("number", [2, 3, 11])
def test_a_small_term_that_is_no_mean_is_found_in_single_precision(number):
    model, batch = in_single("mlp")
    running = Layerwise()
    with pytest.warns(UserWarning, match="its gradient was off by .*e-0[45]"):
        running.outcome(step_of(model, batch, number, ASCENTS[0], closure=with_a_term(model, 1e-4)))
    assert "no plain mean over examples" in running.reason
    assert FINE < 1e-4  # which is what a closure may be off by


@pytest.mark.parametrize("name", NETS)
def test_models_in_single_precision_differ_by_no_more_than_rounding_in_double(name, monkeypatch):
    monkeypatch.setattr("msam.guarded.FINE", 1e-10)
    model, batch = in_single(name)
    execution, compared = Layerwise(), []
    monkeypatch.setattr("msam.guarded.Narrowing", lambda: compared.append(Narrowing()) or compared[-1])
    execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
    assert execution.reason is None
    assert [narrowing.seen for narrowing in compared] == [False]


def test_the_model_is_afterwards_what_it_was():
    model, batch = in_single("batch norm in evaluation")
    held = [*model.parameters(), *model.buffers()]
    places, before = [tensor.data_ptr() for tensor in held], copy.deepcopy(model.state_dict())
    step = step_of(model, batch, 5, ASCENTS[0], own=range(1, 4), scale=8.0)  # of 3, 2, 2, 2, 2

    def broken():
        with doubled(step) as few:
            assert all(tensor.dtype == torch.float64 for tensor in held if tensor.is_floating_point())
            assert model[1].num_batches_tracked.dtype == torch.int64  # as what looks up rows must stay
            assert (few.sizes, few.own, few.scale) == ([2, 2], range(2), None)
            assert torch.equal(few.batch[0], batch[0][3:7].double())
            assert torch.equal(few.batch[1], batch[1][3:7])
            model[1].running_mean.add_(1)
            raise RuntimeError("no more")

    with doubled(step_of(model, batch, 2, ASCENTS[0])) as few:
        assert (few.sizes, len(few.batch[0])) == ([4, 3], 7)  # of 6, 5
    with pytest.raises(RuntimeError, match="no more"):
        broken()
    Layerwise().outcome(step)
    assert all(now is then for now, then in zip([*model.parameters(), *model.buffers()], held, strict=True))
    assert [tensor.data_ptr() for tensor in held] == places
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Single(nn.Module):
    """Goes through single precision, as many a norm does."""

    def forward(self, x):
        return x.float().softmax(-1).to(x.dtype)


class Constant(nn.Module):
    """Has a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.eye(40)

    def forward(self, x):
        return x @ self.matrix


@pytest.mark.parametrize("layer", [Single(), Constant()])
def test_a_model_that_does_not_compute_in_double_precision_is_compared_in_its_own(layer):
    model, batch = in_single("mlp")
    model[1] = layer
    execution = Layerwise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
    assert execution.reason is None
    with pytest.warns(UserWarning, match="its gradient was off by"):
        Layerwise().outcome(step_of(model, batch, 3, ASCENTS[0], closure=with_a_term(model, 1.0)))


def test_under_autocast_it_is_compared_in_double_precision_too():
    model, batch = in_single("mlp")
    plain, other = closure_of(model), with_a_term(model, 1e-3)

    def cast(closure):
        def run(part):
            with torch.autocast("cpu", torch.bfloat16):
                return closure(part)

        return run

    execution = Layerwise()
    execution.outcome(step_of(model, batch, 3, ASCENTS[0], closure=cast(plain)))
    assert execution.reason is None
    with pytest.warns(UserWarning, match="its gradient was off by"):
        execution.outcome(step_of(model, batch, 4, ASCENTS[0], closure=cast(other)))


def test_what_the_closure_computes_in_less_is_not_held_to_the_precision_of_double(monkeypatch):
    monkeypatch.setattr("msam.guarded.FINE", 1e-10)
    model, batch = in_single("mlp")
    execution = Layerwise()
    closure = lambda part: functional.cross_entropy(model(part[0]).float(), part[1])  # noqa: E731
    execution.outcome(step_of(model, batch, 3, ASCENTS[0], closure=closure))
    assert execution.reason is None


def test_a_few_examples_with_nothing_to_average_are_not_compared():
    model, (inputs, targets) = in_single("mlp")
    targets = targets.clone()
    targets[:7] = -100  # those that are looked at, but not the last of the second micro-batch
    execution = Layerwise()
    closure = lambda part: (closure_of(model)(part), (part[1] != -100).sum())  # noqa: E731
    assert execution.outcome(step_of(model, (inputs, targets), 3, ASCENTS[0], closure=closure)).denominator == 4
    assert execution.reason is None


def test_no_warning_of_the_model_comes_from_the_comparison_alone():
    model, batch = in_single("mlp")

    def closure(part):
        warnings.warn("as ever", stacklevel=1)
        return closure_of(model)(part)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        Layerwise().outcome(step_of(model, batch, 3, ASCENTS[0], closure=closure))
    assert len(heard) == 3 * 2 + 2  # one after another, and all at once
