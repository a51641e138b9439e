from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape import GradientAscent
from msam import all_but_norm_layers, matching, mSAM, norm_layers


class LlamaRMSNorm(nn.Module):
    """A normalisation layer of someone's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Rescale(nn.LayerNorm):
    """A layer derived from one, under a name that does not say so."""


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn1 = nn.BatchNorm2d(4)
        self.norm = LlamaRMSNorm()
        self.group = nn.GroupNorm(2, 4)
        self.plain = nn.LayerNorm(4, elementwise_affine=False)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.rms = nn.RMSNorm(4)
        self.derived = Rescale(4)
        self.norm_of_gradients = nn.Linear(4, 4)  # its name says norm, its class does not
        self.head = nn.Linear(4, 2)


NORMS = {"bn1.weight", "bn1.bias", "norm.weight", "group.weight", "group.bias"} | {
    "instance.weight",
    "instance.bias",
    "rms.weight",
    "derived.weight",
    "derived.bias",
}


def names(module, parameters):
    of = {id(p): name for name, p in module.named_parameters()}
    return [of[id(p)] for p in parameters]


def test_norm_layers_and_the_rest_are_all_parameters_once():
    net = Residual()
    assert set(names(net, norm_layers(net))) == NORMS
    assert set(names(net, all_but_norm_layers(net))) == {name for name, _ in net.named_parameters()} - NORMS


def test_a_pattern_chooses_by_name():
    net = Residual()
    assert names(net, matching(net, "head.*")) == ["head.weight", "head.bias"]
    assert names(net, matching(net, "head.bias")) == ["head.bias"]
    assert set(names(net, matching(net, "*.bias"))) == {n for n, _ in net.named_parameters() if n.endswith("bias")}


def test_frozen_parameters_are_left_out_and_tied_ones_come_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
    net[2].weight = net[0].weight
    net[1].weight.requires_grad_(False)
    assert names(net, all_but_norm_layers(net)) == ["0.weight", "0.bias", "2.bias"]
    assert names(net, norm_layers(net)) == ["1.bias", "3.weight", "3.bias"]
    assert names(net, matching(net, "*.weight")) == ["0.weight", "3.weight"]


@pytest.mark.parametrize(
    ("choose", "sentence"),
    [
        (lambda net: matching(net, "haed.*"), "no trainable parameter matches 'haed.*'; there are, for instance, head"),
        (lambda net: matching(net, "HEAD.*"), "no trainable parameter matches 'HEAD.*'; there are, for instance, "),
        (lambda net: norm_layers(net.head), "no normalisation layer has trainable parameters; the model has them in L"),
        (lambda net: all_but_norm_layers(net.bn1), "all trainable parameters are in normalisation layers: BatchNorm2d"),
        (lambda net: matching(net.plain, "*"), "no trainable parameter matches .*for instance, none at all"),
        (lambda net: norm_layers(net.plain), "the model has them in no layer"),
        (lambda net: all_but_norm_layers(net.plain), "normalisation layers: there are none"),
    ],
)
def test_a_choice_of_nothing_is_refused_by_name(choose, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose(Residual())


@pytest.mark.parametrize("choose", [norm_layers, all_but_norm_layers, lambda net: matching(net, "0.*")])
def test_msam_perturbs_what_is_chosen_and_nothing_else(choose, make_net, make_batch, closure_of):
    model = make_net(torch.float64, nn.LayerNorm(5))
    seen = []

    def closure(batch):
        seen.append([p.detach().clone() for p in model.parameters()])
        return closure_of(model)(batch)

    chosen = {id(p) for p in choose(model)}
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    mSAM(sgd, GradientAscent(rho=0.3), perturbed=choose(model)).step(closure, make_batch(11))
    moved = {id(p): b - a for p, a, b in zip(model.parameters(), *seen, strict=True)}
    assert {key for key, shift in moved.items() if shift.any()} == chosen
    assert torch.cat([shift.flatten() for shift in moved.values()]).norm().item() == pytest.approx(0.3, rel=1e-12)
