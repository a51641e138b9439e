"""What a layerwise step holds: of the first pass what the second needs, and of that nothing for longer."""

from __future__ import annotations

import pytest
import torch
from counted import Counted
from networks import ASCENTS, closure_of, images, net, step_of
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from msam.layerwise import Layerwise


class Shifted(nn.Module):
    """Something that is computed from the data alone."""

    def forward(self, x):
        return x + 1


class Tokens(nn.Sequential):
    """Layers that are taken by perturbed copies, so that neither inputs nor gradients are wanted again."""

    def __init__(self, *, bias: bool) -> None:
        middle = nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 6, bias=bias), nn.GELU()
        super().__init__(Shifted(), nn.Linear(5, 6, bias=bias), *middle, nn.Linear(6, 3, bias=bias))

    def forward(self, x):
        return super().forward(x).mean(1)


@pytest.mark.parametrize("bias", [False, True])  # with one, outputs are views, which are watched in another way
def test_the_graph_and_the_inputs_of_the_first_pass_are_gone_before_the_second_and_go_as_gradients_come(bias):
    torch.manual_seed(2)
    model, batch = Tokens(bias=bias).double(), (images(4, 5), torch.zeros(11, dtype=torch.long))
    execution = Layerwise()
    execution.outcome(step_of(model, batch, 3, ASCENTS[0]))  # in which executions are held against each other
    passes, left, late = [], [], []

    def look(layer, _, output):
        passes[-1].append(StorageWeakRef(output.untyped_storage()))
        if layer is model[1] and len(passes) == 1:
            output.register_hook(lambda _: late.append(passes[0][5].expired()))

    def closure(part):
        left.append([output.expired() for outputs in passes for output in outputs])
        passes.append([])
        return closure_of(model)(part)

    hooks = [layer.register_forward_hook(look) for layer in model]
    execution.outcome(step_of(model, batch, 3, ASCENTS[0], closure=closure))
    for hook in hooks:
        hook.remove()
    assert execution.reason is None
    assert [len(outputs) for outputs in passes] == [7, 7]
    assert left == [[], [True] * 7]
    assert late == [True]  # what the last layer was given, when the gradient has come to the first


@pytest.mark.parametrize("name", ["mlp", "words", "patches"])
def test_between_two_steps_nothing_is_held(name):
    model, batch = net(name)
    execution, step = Layerwise(), step_of(model, batch, 3, ASCENTS[0])
    execution.outcome(step)
    with Counted() as counted:
        execution.outcome(step)
    assert counted.most > 0
    assert counted.bytes == 0
