"""The quickest execution is found on steps that count, and can be named again."""

from __future__ import annotations

import copy
import time
import warnings

import pytest
import torch
from networks import ASCENTS, B, closure_of, images, net, step_of
from torch import nn

from landscape import GradientAscent
from msam import mSAM
from msam.execution import OneByOne
from msam.fastest import Fastest
from msam.layerwise import Layerwise
from msam.vectorised import Vectorised


class Slow(OneByOne):
    """One after another, and a nap, the last again and again; counts its steps."""

    def __init__(self, name, *naps):
        super().__init__()
        self.naps, self.name, self.steps = naps, name, 0

    def outcome(self, step):
        self.steps += 1
        time.sleep(self.naps[min(self.steps, len(self.naps)) - 1])
        return super().outcome(step)

    def __repr__(self):
        return self.name


def optimizer_of(model, execution, number=3):
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=number, module=model, execution=execution)


def test_the_one_that_takes_least_time_is_kept():
    model, batch = net("mlp")
    slow, quick = Slow("slow", 0, 0.05), Slow("quick", 0.05, 0.1, 0.005)  # the first says nothing, and the shortest all
    fastest = Fastest([slow, quick], steps=2)
    optimizer = optimizer_of(model, fastest)
    for _ in range(5):
        optimizer.step(closure_of(model), batch)
    assert fastest.chosen is None
    assert repr(fastest) == "Fastest(slow, quick)"
    optimizer.step(closure_of(model), batch)
    assert fastest.chosen == "quick"
    assert repr(fastest) == "Fastest(chosen='quick')"
    optimizer.step(closure_of(model), batch)
    assert (slow.steps, quick.steps) == (3, 4)


@pytest.mark.parametrize("name", ["mlp", "patches", "residual"])
def test_every_step_is_a_step_of_training(name):
    model, batch = net(name)
    other = copy.deepcopy(model)
    fastest = Fastest(steps=1)
    ours, theirs = optimizer_of(model, fastest), optimizer_of(other, OneByOne())
    for _ in range(8):
        ours.step(closure_of(model), batch)
        theirs.step(closure_of(other), batch)
    assert fastest.chosen in fastest.candidates
    assert all(len(seconds) == 2 for seconds in fastest.seconds.values())
    assert len(fastest.seconds) == 3
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_candidates_that_fall_back_drop_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    fastest = Fastest(steps=5)
    optimizer = optimizer_of(model, fastest)
    batch = (images(5), torch.zeros(B, dtype=torch.long))
    optimizer.step(closure_of(model), batch)
    for reason in ("layer by layer", "torch.func"):
        assert fastest.chosen is None
        with pytest.warns(UserWarning, match=f"{reason}, but by OneByOne: batch norm in training mode"):
            optimizer.step(closure_of(model), batch)
    assert fastest.chosen == "OneByOne()"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(closure_of(model), batch)
    alone = Fastest([Layerwise()])
    with pytest.warns(UserWarning, match="layer by layer, but by OneByOne"):
        optimizer_of(model, alone).step(closure_of(model), batch)
    assert alone.chosen == "Layerwise()"


def test_batches_split_in_another_way_and_other_steps_are_not_timed():
    model, batch = net("mlp")
    fastest = Fastest([Slow("a", 0), Slow("b", 0)], steps=1)
    fastest.outcome(step_of(model, batch, 3, ASCENTS[0]))
    fastest.outcome(step_of(model, batch, 4, ASCENTS[0]))
    fastest.outcome(step_of(model, batch, 3, GradientAscent(rho=0.0)))
    fastest.outcome(step_of(model, batch, 3, ASCENTS[0], observes=True))
    assert {name: len(seconds) for name, seconds in fastest.seconds.items()} == {"a": 1, "b": 0}


def test_a_choice_can_be_repeated():
    model, batch = net("mlp")
    fastest = Fastest()
    fastest.choose("Layerwise()")
    fastest.candidates["OneByOne()"] = None
    assert fastest.outcome(step_of(model, batch, 3, ASCENTS[0])).denominator == B
    with pytest.raises(ValueError, match=r"there is no execution 'Quick'; there are: OneByOne\(\), Layerwise\(\), Vec"):
        Fastest().choose("Quick")


def test_candidates_must_be_there_and_differ():
    with pytest.raises(ValueError, match="all of them different"):
        Fastest([Layerwise(), Layerwise()])
    with pytest.raises(ValueError, match="one execution or more"):
        Fastest([])
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        Fastest(steps=0)
    assert len(Fastest([Vectorised(memory=1), Vectorised(memory=2)]).candidates) == 2
