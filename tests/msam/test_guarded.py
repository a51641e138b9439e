"""How an execution is held against another: when, on which random numbers, and what is left where it gives way."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import ASCENTS, B, closure_of, images, net, step_of
from torch import nn

from landscape.layers import UnsupportedError
from msam.execution import OneByOne
from msam.guarded import SPLITS, require_equal
from msam.layerwise import Layerwise


class Counted(OneByOne):
    """Counts the steps that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def outcome(self, step):
        self.taken += 1
        return super().outcome(step)


def test_it_is_compared_on_the_first_step_and_on_every_so_many_after_that():
    model, batch = net("mlp")
    other, taken = Counted(), []
    execution = Layerwise(otherwise=other, check_every=2)
    for _ in range(7):
        execution.outcome(step_of(model, batch, 3, ASCENTS[0]))
        taken.append(other.taken)
    assert taken == [1, 1, 2, 2, 3, 3, 4]
    assert execution.reason is None


def test_of_all_ways_of_splitting_a_batch_the_first_few_are_compared_once_each():
    model, batch = net("mlp")
    other = Counted()
    execution = Layerwise(otherwise=other)
    for number in [*range(1, B + 1), *range(1, B + 1)]:
        execution.outcome(step_of(model, batch, number, ASCENTS[0]))
    assert other.taken == SPLITS == 8


def test_a_step_that_is_reported_on_is_left_to_the_other():
    model, batch = net("mlp")
    execution = Layerwise()
    assert execution.outcome(step_of(model, batch, 3, ASCENTS[0], observes=True)).observer is not None
    assert execution.reason is None


class Noise(nn.Module):
    """Draws in evaluation mode too."""

    def forward(self, x):
        return x + torch.randn_like(x)


def noisy(dtype):
    model = nn.Sequential(nn.Linear(5, 8), Noise(), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    return model, (images(5).to(dtype), torch.zeros(B, dtype=torch.long))


def test_where_there_is_nothing_finite_to_compare_the_numbers_drawn_are_those_of_one_after_another():
    model, batch = noisy(torch.float64)
    closure, states = lambda part: closure_of(model)(part) * math.inf, []
    for execution in (Layerwise(), OneByOne()):
        torch.manual_seed(5)
        execution.outcome(step_of(model, batch, 3, ASCENTS[0], scale=2.0, closure=closure))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_what_is_drawn_in_evaluation_mode_too_is_drawn_alike_by_both(dtype, rtol):
    model, batch = noisy(dtype)
    execution, found = Layerwise(), []
    for each in (execution, OneByOne()):
        torch.manual_seed(5)
        found.append(each.outcome(step_of(model, batch, 1, ASCENTS[0])).gradient)
    assert execution.reason is None
    assert all(torch.allclose(ours, theirs, rtol=rtol) for ours, theirs in zip(*found, strict=True))


class Deeper(nn.Module):
    """Goes through its layer once more where values are above a bound, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bound = nn.Linear(5, 5), math.inf
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        y = self.layer(x)
        return self.layer(y) if float(y.detach().mean()) > self.bound else y


def test_a_second_pass_that_takes_another_way_gives_way_to_the_other_with_the_buffers_of_before():
    model = Deeper().double()
    batch, execution = (images(5), torch.zeros(B)), Layerwise()
    closure = lambda part: model(part[0]).mean()  # noqa: E731  which grows when the weights climb
    execution.outcome(step_of(model, batch, 3, ASCENTS[0], closure=closure))
    model.bound = float(closure(batch).detach()) + 1e-3
    other = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="the second pass calls layer 2 times, the first 1"):
        ours = execution.outcome(step_of(model, batch, 3, ASCENTS[0], closure=closure))
    theirs = OneByOne().outcome(step_of(other, batch, 3, ASCENTS[0], closure=lambda part: other(part[0]).mean()))
    assert all(torch.equal(a, b) for a, b in zip(ours.gradient, theirs.gradient, strict=True))
    assert torch.equal(model.passes, other.passes)


def test_a_gradient_that_is_no_number_or_there_for_other_weights_is_no_equal_one():
    one = torch.ones(2)
    with pytest.raises(UnsupportedError, match="its gradient was off by nan"):
        require_equal([torch.tensor([math.nan, 1.0])], [one], None)
    with pytest.raises(UnsupportedError, match="a weight is used by some micro-batches only"):
        require_equal([one, None], [one, one], None)
