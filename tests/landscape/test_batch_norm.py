"""What batch norm normalises by along a path: interpolated statistics, or those of a pass at every point."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, ragged
from torch import nn

from landscape import Frozen, Objective, Recomputed, interpolate
from landscape.batch_norm import recomputed

X, Y = normal(N, 1, 5, 5, seed=7), classes(N, 3, seed=8)


class Net(nn.Module):
    """Two batch-norm layers, dropout, and one layer that is called twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.twice = nn.BatchNorm2d(3, affine=False)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(48, 3)

    def forward(self, x):
        x = self.drop(torch.tanh(self.norm(self.first(x))))
        return self.head(self.twice(self.twice(x).square()).flatten(1))


def trained(seed: int) -> nn.Module:
    """A model whose statistics are not those of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net().double().train()
        for _ in range(5):
            model(X + seed)
    return model.eval()


def objective(model: nn.Module, data=None, **settings) -> Objective:
    return Objective(model, F.cross_entropy, ragged(X, Y) if data is None else data, **settings)


def test_statistics_are_means_over_batches_weighted_by_their_examples():
    model = trained(0)
    given = objective(model)
    found = recomputed(given, given.weights)
    means, variances = [], []
    for x, _ in given.batches:
        activations = model.first(x)
        means.append(len(x) * activations.mean((0, 2, 3)))
        variances.append(len(x) * activations.transpose(0, 1).flatten(1).var(dim=1))
    assert torch.allclose(found["norm.running_mean"], sum(means) / N, rtol=1e-12)
    assert torch.allclose(found["norm.running_var"], sum(variances) / N, rtol=1e-12)
    plain = sum(value / len(x) for value, (x, _) in zip(means, given.batches, strict=True)) / 3
    assert not torch.allclose(found["norm.running_mean"], plain, rtol=1e-3)  # a mean of means


def test_a_layer_sees_what_earlier_ones_normalised_by_the_batch_and_all_its_calls_count():
    model = trained(0)
    given = objective(model, [(X, Y)])
    found = recomputed(given, given.weights)
    batch = F.batch_norm(model.first(X), None, None, model.norm.weight, model.norm.bias, training=True)
    first = torch.tanh(batch)  # no dropout
    second = F.batch_norm(first, None, None, training=True).square()
    expected = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
    assert torch.allclose(found["twice.running_mean"], expected, rtol=1e-10)


def test_torch_gets_the_same_where_batches_are_equal():
    model = trained(0)
    batches = ragged(X[:12], Y[:12], (4, 4, 4))
    given = objective(model, batches)
    found = recomputed(given, given.weights)
    copied = trained(0)
    copied.drop.p = 0.0
    torch.optim.swa_utils.update_bn([x for x, _ in batches], copied)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.allclose(found[name], dict(copied.named_buffers())[name], rtol=1e-10)


def test_frozen_statistics_are_interpolated_and_those_of_each_checkpoint_at_its_end():
    pair = [trained(0), trained(1)]
    ends = [objective(model) for model in pair]
    result = interpolate(*ends, points=3, batch_norm=Frozen(), held_out=ends[0])
    assert result.losses[0] == ends[0].loss(ends[0].weights).item()
    assert result.losses[-1] == ends[1].loss(ends[1].weights).item()
    middle = trained(0)
    states = [model.state_dict() for model in pair]
    middle.load_state_dict({k: (v + states[1][k]) / 2 if v.is_floating_point() else v for k, v in states[0].items()})
    loss = F.cross_entropy(middle(X), Y).item()
    assert result.losses[result.t == 0.5][0] == pytest.approx(loss, rel=1e-12)
    assert result.held_out_losses.tolist() == result.losses.tolist()
    assert result.manifest["objective"]["batch_norm"].startswith("running statistics of the two checkpoints, interp")


def test_recomputed_statistics_are_those_of_each_point_the_ends_included():
    ends = [objective(trained(seed)) for seed in (0, 1)]
    held_out = objective(trained(3), ragged(X[:11] + 1, Y[:11], (4, 4, 3)))
    result = interpolate(*ends, points=3, batch_norm=Recomputed(ends[0]), held_out=held_out)
    for t in (0.0, 0.5, 1.0):
        w = torch.lerp(ends[0].weights, ends[1].weights, t)
        model = ends[0].at(w).model
        statistics = recomputed(ends[0], w)
        model.load_state_dict(model.state_dict() | statistics)
        place = result.t == t
        assert result.losses[place][0] == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-12)
        expected = F.cross_entropy(model(X[:11] + 1), Y[:11]).item()
        assert result.held_out_losses[place][0] == pytest.approx(expected, rel=1e-12)
    assert result.losses[0] != ends[0].loss(ends[0].weights).item()
    words = result.manifest["objective"]["batch_norm"]
    assert words.startswith("recomputed at every point over 13 examples in batches of 5, 3 (unnamed data ")


def test_the_callers_model_and_the_random_state_stay_as_they_are():
    model = trained(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    ends = [objective(model), objective(trained(1))]
    state = torch.get_rng_state()
    interpolate(*ends, points=3, batch_norm=Recomputed(ends[0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert model.norm.momentum == 0.1
    assert ends[0].loss(ends[0].weights) == objective(trained(0)).loss(ends[0].weights)


def test_a_batch_of_one_example_is_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double().eval()
    data = ragged(normal(3, 3), torch.tensor([0, 1, 0]), (2, 1))
    given = Objective(model, F.cross_entropy, data)
    with pytest.raises(ValueError, match=re.escape("a batch of 1 example has no variance")):
        recomputed(given, given.weights)


def test_what_a_model_says_itself_is_said_as_it_is():
    class Strict(nn.BatchNorm1d):
        def forward(self, x):
            if self.training:
                raise ValueError("not while training")
            return super().forward(x)

    model = nn.Sequential(nn.Linear(3, 2), Strict(2)).double().eval()
    given = Objective(model, F.cross_entropy, ragged(normal(3, 3), torch.tensor([0, 1, 0]), (2, 1)))
    with pytest.raises(ValueError, match=r"^not while training$"):
        recomputed(given, given.weights)


def test_frozen_and_recomputed_statistics_are_not_put_side_by_side():
    from landscape.manifest import require_comparable

    ends = [objective(trained(seed)) for seed in (0, 1)]
    found = {
        type(kind).__name__: interpolate(*ends, points=3, batch_norm=kind).manifest
        for kind in (Frozen(), Recomputed(ends[0]))
    }
    with pytest.raises(ValueError, match=r"differ in objective\.batch_norm"):
        require_comparable(found)
