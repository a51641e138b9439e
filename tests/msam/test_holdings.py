"""Whose state an optimizer is given, and what layers it cannot serve."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from landscape import GradientAscent
from msam import mSAM

KINDS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
}


SGD_ALONE = ("momentum", "dampening", "nesterov")


def stepped(kind):
    """The state dict of one of that kind after a step."""
    layer = nn.Linear(3, 2, bias=False)
    optimizer = KINDS[kind](layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(("first", "other"), sorted(itertools.permutations(KINDS, 2)))
def test_the_state_of_every_other_optimizer_is_refused_and_changes_nothing(first, other):
    optimizer = mSAM(KINDS[other](nn.Linear(3, 2, bias=False).parameters()), GradientAscent(0.1))
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=rf"is of another optimizer than this {other}: "):
        optimizer.load_state_dict(stepped(first))
    assert repr(optimizer.state_dict()) == before


@pytest.mark.parametrize(("first", "other"), [("Adamax", "RAdam"), ("RAdam", "Adamax")])
def test_they_are_told_apart_by_their_entries_where_an_old_torch_has_given_them_the_same_settings(first, other):
    state = stepped(first)
    state["param_groups"][0].pop("decoupled_weight_decay", None)
    optimizer = mSAM(KINDS[other](nn.Linear(3, 2, bias=False).parameters()), GradientAscent(0.1))
    with pytest.raises(ValueError, match=rf"is of another optimizer than this {other}: it keeps no exp_"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_state_is_taken_with_what_schedulers_and_a_newer_or_older_torch_put_there(kind):
    optimizer = mSAM(KINDS[kind](nn.Linear(3, 2, bias=False).parameters()), GradientAscent(0.1))
    state = stepped(kind)
    (group,) = state["param_groups"]
    group |= {"initial_lr": 0.1, "max_lr": 1.0, "min_lr": 0.0, "base_momentum": 0.8, "max_momentum": 0.9, "name": "all"}
    optimizer.load_state_dict(state)
    for switch in ("fused", "decoupled_weight_decay"):
        group.pop(switch, None)
    group["quicker"] = True
    optimizer.load_state_dict(state)


def test_a_state_that_lacks_what_every_optimizer_has_is_refused():
    state = stepped("SGD")
    state["param_groups"] = [{key: state["param_groups"][0][key] for key in ("params", *SGD_ALONE)}]
    optimizer = mSAM(KINDS["SGD"](nn.Linear(3, 2, bias=False).parameters()), GradientAscent(0.1))
    with pytest.raises(ValueError, match="is of another optimizer than this SGD: it lacks differentiable, foreach, "):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="not the state dict of an optimizer: it lacks param_groups or state"):
        optimizer.load_state_dict({"model": {}})


def test_weights_that_decay_in_both_ways_and_weights_without_a_state_are_those_of_one_optimizer():
    layers = nn.Linear(3, 2), nn.Linear(2, 2)
    groups = [{"params": [*layer.parameters()], "decoupled_weight_decay": bool(i)} for i, layer in enumerate(layers)]
    optimizer = mSAM(torch.optim.RAdam(groups), GradientAscent(0.1))
    optimizer.accumulate(lambda x: layers[0](x).mean(), torch.ones(2, 3))
    optimizer.step()
    assert not optimizer.state[layers[1].weight]  # to be looked at makes an empty one
    state = optimizer.state_dict()
    assert {} in state["state"].values()
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("layer", [nn.Embedding(5, 3, sparse=True), nn.EmbeddingBag(5, 3, sparse=True)])
def test_sparse_gradients_are_refused_by_the_name_of_the_layer(layer):
    model = nn.Sequential(layer, nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"^0 has sparse gradients, .* build it with sparse=False"):
        mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(0.1), module=model)
    with pytest.raises(ValueError, match=r"^the module has sparse gradients"):
        mSAM(torch.optim.SGD(layer.parameters(), lr=0.1), None, module=layer)


def test_what_a_closure_returns_beside_the_loss_is_no_denominator(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(0.1), num_microbatches=2)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"what it was divided by, a number; got a tensor of shape \(6, 3\) for the"):
        optimizer.step(lambda b: (closure_of(model)(b), model(b[0])), make_batch(11))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    one = optimizer.step(lambda b: (closure_of(model)(b), model(b[0]).exp().sum()), make_batch(11))  # with a graph
    assert one.isfinite()


class Thinned(nn.Linear):
    """Has something else under the name."""

    def sparse(self):
        return 0.5


def test_what_is_called_sparse_and_is_no_setting_is_none_of_its_business():
    model = nn.Sequential(Thinned(3, 2))
    assert mSAM(torch.optim.SGD(model.parameters(), lr=0.1), None, module=model).module is model


@pytest.mark.parametrize(
    "damaged",
    [None, [], *({"msam": own} for own in (None, 3, {"counted": None}, {"learnt": [1]}, {"counted": {"steps": "x"}}))],
    ids=repr,
)
def test_a_damaged_state_is_refused_in_a_sentence(damaged):
    optimizer = mSAM(KINDS["SGD"](nn.Linear(3, 2).parameters()), None)
    whole = {**optimizer.state_dict(), **damaged} if isinstance(damaged, dict) else damaged
    with pytest.raises(ValueError, match=r"the state dict is damaged|not the state dict of an optimizer"):
        optimizer.load_state_dict(whole)


def test_a_state_of_weights_of_other_shapes_and_an_optimizer_of_none_are_refused():
    optimizer = mSAM(KINDS["SGD"](nn.Linear(2, 3, bias=False).parameters()), None)
    with pytest.raises(ValueError, match=r"of other weights: momentum_buffer has shape \(2, 3\), the weights \(3, 2\)"):
        optimizer.load_state_dict(stepped("SGD"))
    with pytest.raises(ValueError, match="the base optimizer holds no parameters; build it"):
        mSAM(torch.optim.SGD([{"params": []}], lr=0.1), None)
