"""Hidden units put in the order of another network's."""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, TiedAutoencoder, classes, normal, ragged
from torch import nn

from landscape import Frozen, Objective, Recomputed, align, interpolate
from landscape.permutations import Units
from landscape.units import hidden_units
from msam.models import cnn, group_norm, mlp


def deep():
    return nn.Sequential(*(part for width in (6, 7, 5) for part in (nn.LazyLinear(width), nn.Tanh())), nn.LazyLinear(3))


def mixed():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 2), nn.PReLU(6), nn.LayerNorm((6, 4, 4)), nn.MaxPool2d(2), nn.Flatten()),
        nn.BatchNorm1d(24),
        nn.Linear(24, 5, bias=False),
        nn.LayerNorm(5),
        nn.Dropout(),
        nn.GELU(),
        nn.Linear(5, 3),
    )


class Functional(nn.Module):
    """A chain that is written with functions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 5, 3), nn.Linear(45, 3)

    def forward(self, x):
        return self.last(torch.flatten(F.relu(self.first(x)), 1))


PLAIN, IMAGES = normal(N, 4, seed=7), normal(N, 1, 5, 5, seed=7)
NETS = {
    "mlp": (lambda: mlp(inputs=4, hidden=9, classes=3), PLAIN),
    "deep": (deep, PLAIN),
    "batch norm": (lambda: cnn(channels=1, width=8, classes=3, norm=nn.BatchNorm2d), IMAGES),
    "group norm": (lambda: cnn(channels=1, width=8, classes=3, norm=group_norm), IMAGES),
    "mixed": (mixed, IMAGES),
    "functions": (Functional, IMAGES),
}


def built(name: str, seed: int) -> nn.Module:
    """A model with batch-norm statistics and scales that are not the default ones."""
    build, x = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
        model(x.float())
        model.double()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        model(x)
    return model.eval()


def objective(name: str, seed: int = 0) -> Objective:
    model, x = built(name, seed), NETS[name][1]
    return Objective(model, F.cross_entropy, ragged(x, built(name, 0)(x).argmax(dim=1)))  # what the first one says


def shuffled(given: Objective, seed: int) -> Objective:
    """The same function with its units in another order, by indexing that is written out here, layer by layer."""
    model = given.model
    generator = torch.Generator().manual_seed(seed)
    chain = [m for m in model.modules() if not list(m.children())]
    order = block = None
    for part in chain:
        if isinstance(part, nn.Linear | nn.Conv2d):
            if order is not None:
                rows = (
                    order[:, None] * (part.weight.shape[1] // len(order))
                    + torch.arange(part.weight.shape[1] // len(order))
                ).flatten()
                part.weight.data = part.weight.data[:, rows]
            if part is next(m for m in reversed(chain) if isinstance(m, nn.Linear)):
                break
            order = torch.randperm(part.weight.shape[0], generator=generator)
            following = chain[chain.index(part) + 1]
            if isinstance(following, nn.GroupNorm):
                size = part.weight.shape[0] // following.num_groups
                groups = torch.randperm(following.num_groups, generator=generator)
                order = torch.cat([g * size + torch.randperm(size, generator=generator) for g in groups])
            part.weight.data = part.weight.data[order]
            if part.bias is not None:
                part.bias.data = part.bias.data[order]
        elif order is not None:
            for name, value in [*part.named_parameters(), *part.named_buffers()]:
                if value.ndim:
                    block = len(value) // len(order)
                    rows = (order[:, None] * block + torch.arange(block)).flatten()
                    getattr(part, name).data = value.data[rows]
    for parameter in model.parameters():
        parameter.requires_grad_()
    return Objective(model, F.cross_entropy, given.batches)


@pytest.mark.parametrize("name", NETS)
def test_a_network_whose_units_were_reordered_is_brought_back_with_no_distance_and_no_barrier(name):
    first = objective(name)
    other = shuffled(first, 5)
    assert other.loss(other.weights).item() == pytest.approx(first.loss(first.weights).item(), rel=1e-10)
    found = align(first, other)
    assert found.distance_before > 1
    assert found.distance_after == 0.0
    assert torch.equal(found.objective.weights, first.weights)
    assert found.discrepancy < 1e-12
    before = interpolate(first, other, batch_norm=Frozen(), points=3)
    after = interpolate(first, found.objective, batch_norm=Frozen(), points=3)
    assert before.barrier.height > 1e-3 or before.losses.max() - before.losses.min() > 0.1
    assert after.losses == pytest.approx(np.full(len(after.t), after.losses[0]), rel=1e-10)
    again = interpolate(first, found.objective, batch_norm=Recomputed(first), points=3)
    assert again.barrier.height < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_aligning_two_networks_changes_no_function_and_never_adds_distance(name):
    first, other = objective(name, 0), objective(name, 1)
    found = align(first, other, restarts=2)
    assert found.distance_after < found.distance_before
    measured = float((found.objective.weights - first.weights).norm())
    assert measured == pytest.approx(found.distance_after, rel=1e-12)
    x = NETS[name][1]
    assert torch.allclose(found.objective.model(x), other.model(x), rtol=1e-10, atol=1e-12)
    assert [sorted(order) for order in found.orders.values()] == [list(range(len(o))) for o in found.orders.values()]


def test_two_layers_of_units_come_as_near_as_any_order_of_them():
    made = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made.append(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double())
    first, other = (Objective(model, F.cross_entropy, ragged(PLAIN, classes(N, 3))) for model in made)
    w1, b1, w2, b2, w3, b3 = other.space.split(other.weights)
    distances = [
        float(
            (torch.cat([p.flatten() for p in (w1[i], b1[i], w2[j][:, i], b2[j], w3[:, j], b3)]) - first.weights).norm()
        )
        for i, j in itertools.product(map(list, itertools.permutations(range(3))), repeat=2)
    ]
    assert align(first, other, restarts=8).distance_after == pytest.approx(min(distances), rel=1e-12)


def test_more_starts_are_never_worse_and_the_seed_decides():
    first, other = objective("deep", 0), objective("deep", 3)
    found = [align(first, other, restarts=n, seed=2) for n in (1, 12)]
    assert found[1].distance_after <= found[0].distance_after
    again = align(first, other, restarts=12, seed=2)
    assert torch.equal(again.objective.weights, found[1].objective.weights)


def test_units_of_one_group_stay_together_and_the_best_such_order_is_found():
    gains = np.random.default_rng(0).normal(size=(6, 6))
    units = Units("layer", 6, [], group=2)
    order = units.best(gains)
    allowed = [
        np.array([2 * g + i for g, flip in zip(groups, flips, strict=True) for i in ((1, 0) if flip else (0, 1))])
        for groups in itertools.permutations(range(3))
        for flips in itertools.product((False, True), repeat=3)
    ]
    best = max(gains[np.arange(6), candidate].sum() for candidate in allowed)
    assert gains[np.arange(6), order].sum() == pytest.approx(best, rel=1e-12)
    free = Units("layer", 6, []).best(gains)
    assert gains[np.arange(6), free].sum() > best
    drawn = units.drawn(torch.Generator().manual_seed(1)).reshape(3, 2) // 2
    assert (drawn[:, 0] == drawn[:, 1]).all()


def test_the_units_of_a_group_norm_net_know_their_groups():
    found = hidden_units(built("group norm", 0))
    assert [(unit.layer, unit.number, unit.group) for unit in found] == [("0", 8, 4), ("3", 16, 4)]
    last = found[1].places[-1]
    assert (last.name, last.axis, last.block) == ("8.weight", 1, 4)


def decorated(forward):
    @functools.wraps(forward)
    def call(self, *args, **more):
        return forward(self, *args, **more)

    return call


class Named(nn.Linear):
    """As models of transformers; tracing such a forward fails with an error of Python's about code."""

    @decorated
    def forward(self, x=None, y=None, **more):
        return super().forward(x)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > -1e9 else -x)


def sequential(*layers):
    return lambda: nn.Sequential(*layers)


REFUSED = {
    "a convolution in groups": (
        sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 3)),
        IMAGES,
        "1 is a convolution in groups",
    ),
    "an input in named parts": (
        lambda: Named(4, 3),
        PLAIN,
        "the forward of Named cannot be followed from layer to layer",
    ),
    "a branch": (lambda: Branching(4, 3), PLAIN, "Branching cannot be followed from layer to layer, as it branches on"),
    "softmax over units": (
        sequential(nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, 3)),
        PLAIN,
        "1 (Softmax) is no known layer",
    ),
    "no hidden layer": (sequential(nn.Linear(4, 3)), PLAIN, "it has no hidden units"),
    "a layer that reads pixels and not channels": (
        sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Linear(4, 5), nn.Flatten(), nn.Linear(40, 3)),
        IMAGES,
        "its outputs move by",
    ),
    "groups of two sizes": (
        sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.Linear(8, 3)),
        PLAIN,
        "2 normalises other groups of the same units",
    ),
}


@pytest.mark.parametrize(("build", "x", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_models_without_units_that_can_be_moved_are_refused_with_the_step(build, x, sentence):
    given = Objective(build().double(), F.cross_entropy, ragged(x, classes(N, 3)))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        align(given, given)


def test_tied_and_frozen_weights_are_refused():
    tied = Objective(TiedAutoencoder().double(), F.mse_loss, ragged(PLAIN[:, :3], PLAIN[:, :3]))
    with pytest.raises(ValueError, match=re.escape("without second.weight, which the objective leaves out")):
        align(tied, tied)
    given = objective("mlp").select("3.*")
    with pytest.raises(ValueError, match=re.escape("without 1.weight, 1.bias, which the objective leaves out")):
        align(given, given)


def test_networks_of_different_widths_are_refused_and_so_are_no_searches():
    with pytest.raises(ValueError, match="of another architecture; parameters differ"):
        align(objective("mlp"), objective("deep"))
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        align(objective("mlp"), objective("mlp"), restarts=0)


def test_progress_counts_the_searches():
    seen = []
    align(objective("mlp"), objective("mlp", 1), restarts=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
