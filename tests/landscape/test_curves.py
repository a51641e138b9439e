"""Curves with one bend between two checkpoints."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, problem, quadratic, ragged
from torch import nn
from torch.func import functional_call

from landscape import BendTraining, Frozen, Objective, Recomputed, Result, bezier, interpolate
from landscape.batch_norm import of_layers
from landscape.curves import Quadratic

ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def ring(first, last) -> list[Objective]:
    """(‖w‖² − 1)² in two dimensions, and two points of the ring."""
    model = nn.Linear(1, 2, bias=False).double()
    data = [(torch.ones(3, 1).double(), torch.zeros(3))]
    objective = Objective(model, lambda y, _: (y.square().sum(dim=1) - 1).square().mean(), data)
    return [objective.at(torch.tensor(w).double()) for w in (first, last)]


def test_a_curve_stays_on_a_ring_that_the_straight_line_leaves():
    ends = ring([1.0, 0.0], [0.0, 1.0])
    straight = interpolate(*ends)
    curve = bezier(*ends, training=BendTraining(epochs=150, optimizer=ADAM))
    assert straight.barrier.height == pytest.approx(0.25, rel=1e-12)
    assert curve.barrier.height < 0.002
    assert curve.losses[[0, -1]] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert curve.bend == pytest.approx([0.92, 0.92], abs=0.02)  # where the tangents of the ring meet is (1, 1)
    assert curve.length == pytest.approx(np.pi / 2, rel=0.01)
    assert curve.distance == pytest.approx(np.sqrt(2), rel=1e-12)
    assert curve.mean_loss < straight.mean_loss / 100


def test_weights_along_the_curve_and_its_length_are_the_closed_form():
    a, bend, b = normal(4), normal(4, seed=1), normal(4, seed=2)
    curve = Quadratic(a, bend, b, {})
    assert torch.equal(curve.at(0.0), a)
    assert torch.equal(curve.at(1.0), b)
    assert torch.allclose(curve.at(0.25), 0.5625 * a + 0.375 * bend + 0.0625 * b, rtol=1e-12)
    fine = torch.stack([curve.at(t) for t in np.linspace(0, 1, 4001)])
    assert curve.length == pytest.approx(float(fine.diff(dim=0).norm(dim=1).sum()), rel=1e-7)
    assert Quadratic(a, (a + b) / 2, b, {}).length == pytest.approx(float((b - a).norm()), rel=1e-12)


def test_every_step_goes_along_the_gradient_of_one_batch_at_one_t():
    given = problem("tanh_mlp")
    objective = given.objective()
    other = objective.at(objective.weights + normal(objective.space.dim, seed=9))
    training = BendTraining(epochs=1, batch_size=N, optimizer=functools.partial(torch.optim.SGD, lr=0.5))
    curve = bezier(objective, other, training=training, points=3)
    (t,) = curve.trained_at
    assert 0 < t < 1
    middle = (objective.weights + other.weights) / 2
    loss, slope = objective.loss_and_gradient(Quadratic(objective.weights, middle, other.weights, {}).at(float(t)))
    assert torch.allclose(torch.tensor(curve.bend), middle - 0.5 * 2 * t * (1 - t) * slope, rtol=1e-10, atol=1e-12)
    assert curve.training_losses == pytest.approx([float(loss)], rel=1e-12)


def test_an_epoch_takes_every_example_once_and_the_last_batch_has_what_is_left():
    model = nn.Linear(1, 1, bias=False).double()
    x = (2.0 ** torch.arange(N)).double()[:, None]
    objective = Objective(model, lambda y, targets: (y + 0 * targets).mean(), ragged(x, x)).at(torch.ones(1).double())
    other = objective.at(torch.ones(1).double())
    still = functools.partial(torch.optim.SGD, lr=0.0)
    losses = bezier(
        objective, other, points=3, training=BendTraining(epochs=2, batch_size=5, optimizer=still)
    ).training_losses
    assert len(losses) == 6
    for epoch in (losses[:3], losses[3:]):  # sums of distinct powers of two
        assert epoch @ [5, 5, 3] == pytest.approx(2**N - 1, rel=1e-12)
    assert losses[0] != losses[3]


def test_the_seed_decides_it_and_the_global_random_state_has_no_part_in_it(tmp_path):
    objective = problem("tanh_mlp").objective()
    other = objective.at(-objective.weights)
    made = {
        seed: bezier(objective, other, points=3, training=BendTraining(epochs=2, batch_size=5, seed=seed))
        for seed in (0, 1)
    }
    state = torch.get_rng_state()
    torch.manual_seed(77)
    again = bezier(objective, other, points=3, training=BendTraining(epochs=2, batch_size=5, seed=0))
    torch.set_rng_state(state)
    assert again == made[0]
    assert not np.array_equal(made[0].trained_at, made[1].trained_at)
    assert Result.load(again.save(tmp_path / "curve.npz")) == again
    assert again.manifest["subject"]["curve"]["training"]["optimizer"] == "Adam(lr=0.01)"


class Normalised(nn.Module):
    """One batch-norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.body(x))))


def normalised_ends(x, y) -> list[Objective]:
    """Two networks with batch norm, each with running statistics of its own."""
    models = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Normalised().double()
            model(x + seed)
        models.append(model.eval())
    return [Objective(model, F.cross_entropy, ragged(x, y)) for model in models]


@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "frozen"])
def test_batch_norm_is_trained_through_its_batches_or_with_interpolated_statistics(recompute):
    x, y = normal(N, 3, seed=7), classes(N, 3, seed=8)
    ends = normalised_ends(x, y)
    models = [end.model for end in ends]
    training = BendTraining(epochs=1, batch_size=N, optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    kind = Recomputed(ends[0]) if recompute else Frozen()
    curve = bezier(*ends, training=training, points=3, batch_norm=kind)
    (t,) = curve.trained_at
    middle = (ends[0].weights + ends[1].weights) / 2
    w = Quadratic(ends[0].weights, middle, ends[1].weights, {}).at(float(t)).requires_grad_()
    model = models[0].train(recompute)
    statistics = [of_layers(m) for m in models]
    named = {k: v.clone() if recompute else (1 - t) * v + t * statistics[1][k] for k, v in statistics[0].items()}
    loss = F.cross_entropy(functional_call(model, named | ends[0].space.unflatten(w), (x,)), y)
    (slope,) = torch.autograd.grad(loss, w)
    assert torch.allclose(torch.tensor(curve.bend), middle - 2 * t * (1 - t) * slope, rtol=1e-9, atol=1e-11)


def test_a_single_example_that_is_left_goes_with_those_before_where_batch_norm_needs_more_than_one():
    ends = normalised_ends(normal(N, 3, seed=7), classes(N, 3, seed=8))
    training = BendTraining(epochs=2, batch_size=4)
    assert N % 4 == 1
    assert len(bezier(*ends, training=training, points=3, batch_norm=Recomputed(ends[0])).training_losses) == 2 * 3
    assert len(bezier(*ends, training=training, points=3, batch_norm=Frozen()).training_losses) == 2 * 4
    with pytest.raises(ValueError, match=r"no variance .*; choose a batch_size of two or more, or keep"):
        bezier(*ends, training=BendTraining(batch_size=1), batch_norm=Recomputed(ends[0]))


def test_each_example_is_taken_once_an_epoch_where_the_last_batch_is_larger():
    class Watched(Normalised):
        def forward(self, x):
            if self.norm.training:
                seen.append(x[:, 0].tolist())
            return super().forward(x)

    seen, x = [], normal(N, 3, seed=7)
    objective = Objective(Watched().double().eval(), F.cross_entropy, ragged(x, classes(N, 3)))
    training, recomputed = BendTraining(epochs=1, batch_size=4), Recomputed(objective)
    seen.clear()
    bezier(objective, objective.at(-objective.weights), training=training, points=3, batch_norm=recomputed)
    assert [len(batch) for batch in seen[:3]] == [4, 4, 5]
    assert sorted(itertools.chain(*seen[:3])) == sorted(x[:, 0].tolist())


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, _: torch.where(y > 0.25, math.inf, 0.0).mean() + y.mean(),  # whose gradient is 1 everywhere
        lambda y, _: (
            torch.where(y < 0.25, 0.25 - y, 0 * y).sqrt().mean()
        ),  # zero from there on, with a gradient that is no number
    ],
    ids=["loss", "gradient"],
)
def test_a_loss_or_a_gradient_alone_that_is_not_finite_ends_the_training(loss):
    data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    objective = Objective(nn.Linear(1, 1, bias=False).double(), loss, data).at(torch.full((1,), 0.3).double())
    other = objective.at(torch.full((1,), 0.5).double())
    with pytest.raises(ValueError, match="the training of the bend diverged: step 1 of 1"):
        bezier(objective, other, training=BendTraining(epochs=1))


def test_a_curve_that_turns_back_has_its_length_where_its_speed_is_zero_but_for_rounding():
    for node in (np.polynomial.legendre.leggauss(64)[0] + 1) / 2:
        for seed in range(5):
            a, first = normal(7, seed=seed), normal(7, seed=seed + 9)
            last = -first * (1 - node) / node  # so that nothing moves at the node
            curve = Quadratic(a, a + first / 2, a + first / 2 + last / 2, {})
            expected = float(first.norm()) * (node / 2 + (1 - node) ** 2 / (2 * node))
            assert curve.length == pytest.approx(expected, rel=2e-3)


def test_a_length_whose_square_is_no_number_of_single_precision_is_right():
    a, bend, b = normal(4), normal(4, seed=1), normal(4, seed=2)
    single = Quadratic(*(1e25 * one.float() for one in (a, bend, b)), {})
    assert single.length == pytest.approx(1e25 * Quadratic(a, bend, b, {}).length, rel=1e-6)


def test_steps_are_counted_and_their_places_are_those_of_no_other_stream():
    done, ends = [], ring([1.0, 0.0], [0.0, 1.0])
    training = BendTraining(epochs=4, batch_size=2, seed=3)
    curve = bezier(*ends, training=training, points=3, progress=lambda *numbers: done.append(numbers))
    assert done[:8] == [(k, 8) for k in range(1, 9)]
    plain = torch.Generator().manual_seed(3)
    torch.randperm(3, generator=plain)
    assert curve.trained_at[0] != float(torch.rand((), generator=plain, dtype=torch.float64))


def test_numbers_that_all_examples_share_are_in_every_batch():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)

        def forward(self, x, scale):
            return scale * self.layer(x)

    x = torch.arange(1.0, 6.0).double()[:, None]
    batches = [((x[part], torch.tensor(2.0).double()), 0 * x[part]) for part in (slice(0, 3), slice(3, 5))]
    objective = Objective(Shared().double(), lambda y, _: y.mean(), batches, forward=lambda m, b: (m(*b[0]), b[1]))
    objective = objective.at(torch.ones(1).double())
    still = BendTraining(epochs=1, batch_size=2, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    losses = bezier(objective, objective.at(objective.weights), training=still, points=3).training_losses
    assert losses @ [2, 2, 1] == pytest.approx(2 * 15, rel=1e-12)


def test_a_training_that_diverges_says_so():
    ends = ring([1.0, 0.0], [0.0, 1.0])
    training = BendTraining(epochs=30, optimizer=functools.partial(torch.optim.SGD, lr=1e9))
    with pytest.raises(ValueError, match=r"training of the bend diverged: step \d+ of 30 .*Lower the learning rate"):
        bezier(*ends, training=training)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"optimizer": "adam"}, "optimizer must make one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        BendTraining(**settings)


def test_something_else_than_settings_is_refused():
    with pytest.raises(TypeError, match="training must be a BendTraining; got int"):
        bezier(*ring([1.0, 0.0], [0.0, 1.0]), training=30)


def test_the_learning_rate_falls_to_zero_along_a_cosine():
    rates = []

    def watched(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.register_step_pre_hook(lambda made, *_: rates.append(made.param_groups[0]["lr"]))
        return optimizer

    objective = quadratic(torch.eye(6).double(), w=normal(6), slopes=normal(N, 6, seed=1))
    other = objective.at(objective.weights + 1)
    bezier(objective, other, training=BendTraining(epochs=4, batch_size=N, optimizer=watched), points=3)
    assert rates == pytest.approx([0.1 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)])
