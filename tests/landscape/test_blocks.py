"""Diagonal blocks of curvature matrices: of the weights that match a pattern, and of layers."""

from __future__ import annotations

import pytest
import torch
from problems import normal, problem, quadratic, symmetric
from torch import nn
from torch.nn import functional

from landscape import EmpiricalFisherOperator, GGNOperator, HessianOperator, Objective


def close(a, b):
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def places_of(objective, pattern):
    places = objective.space.unflatten(torch.arange(objective.space.dim))
    return torch.cat([places[name].flatten() for name in objective.space.select(pattern).names])


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
@pytest.mark.parametrize("pattern", ["0.*", "2.weight", "*.bias"])
def test_blocks_are_those_of_the_whole_at_any_weights(kind, pattern):
    objective = problem("tanh_mlp").objective()
    operator = kind(objective, weights=objective.weights + 0.5)
    chosen = places_of(objective, pattern)
    whole = operator.apply(torch.eye(31).double())
    block = operator.block(pattern)
    assert close(block.apply(torch.eye(len(chosen)).double()), whole[chosen][:, chosen])
    assert close(block.weights, operator.weights[chosen])
    assert block.manifest()["objective"]["parameters"] == pattern
    difference = (operator - 2 * operator).block(pattern)
    assert close(difference.apply(torch.eye(len(chosen)).double()), -whole[chosen][:, chosen])


def test_layers_are_the_blocks_of_weight_and_bias_together():
    objective = problem("conv_batch_norm").objective()
    hessian = HessianOperator(objective)
    whole = hessian.apply(torch.eye(hessian.dim).double())
    layers = hessian.layers()
    assert list(layers) == ["0", "1", "4"]
    for name, block in layers.items():
        chosen = places_of(objective, f"{name}.*")
        assert close(block.apply(torch.eye(len(chosen)).double()), whole[chosen][:, chosen])
    alone = HessianOperator(quadratic(symmetric(torch.arange(3.0).double())))
    assert list(alone.layers()) == [""]


class Nested(nn.Module):
    """Weights of its own, a layer with weights of its own and one in it, and two whose names are patterns of others."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(normal(2))
        self.outer = nn.Linear(2, 3, bias=False)
        self.outer.inner = nn.Linear(2, 3)
        self.by = nn.ModuleDict({"a[bc]": nn.Linear(3, 2, bias=False), "ab": nn.Linear(3, 2, bias=False)})
        self.double()

    def forward(self, x):
        hidden = torch.tanh(self.outer(x + self.shift) + self.outer.inner(x))
        return self.by["a[bc]"](hidden) + torch.tanh(self.by["ab"](hidden))


def test_layers_are_what_each_module_holds_by_itself():
    torch.manual_seed(0)
    objective = Objective(Nested(), functional.mse_loss, [(normal(6, 2), normal(6, 2, seed=1))])
    hessian = HessianOperator(objective)
    whole, places, start = hessian.apply(torch.eye(hessian.dim).double()), {}, 0
    for name, size in zip(objective.space.names, objective.space.sizes, strict=True):
        places.setdefault(name.rpartition(".")[0], []).extend(range(start, start + size))
        start += size
    layers = hessian.layers()
    assert {name: block.dim for name, block in layers.items()} == {
        "": 2, "outer": 6, "outer.inner": 9, "by.a[bc]": 6, "by.ab": 6
    }  # fmt: skip
    for name, block in layers.items():
        chosen = places[name]
        assert close(block.apply(torch.eye(len(chosen)).double()), whole[chosen][:, chosen])
    assert layers["outer.inner"].manifest()["objective"]["parameters"] == "outer.inner.weight, outer.inner.bias"


def test_weights_are_chosen_by_their_very_names():
    objective = problem("tanh_mlp").objective()
    first, *_, last = objective.space.names
    assert objective.select([last, first]).space.names == (first, last)
    with pytest.raises(ValueError, match="no trainable parameter is called 'head'"):
        objective.select([first, "head"])
    with pytest.raises(ValueError, match="no trainable parameter matches"):
        objective.select([])


def test_a_block_that_nothing_matches_is_refused():
    with pytest.raises(ValueError, match=r"no trainable parameter matches 'head\.\*'"):
        HessianOperator(problem("tanh_mlp").objective()).block("head.*")
