from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, problem, quadratic, ragged, symmetric
from torch import nn

from landscape import Objective, Result, accuracy, interpolate
from landscape.answers.paths import highest, rises
from landscape.paths import _rise_between

A = symmetric(torch.linspace(-2, 3, 6).double())
W, V, SLOPES = normal(6), normal(6, seed=4), normal(N, 6, seed=1)
B = SLOPES.mean(dim=0)


def saddle():
    return quadratic(A, w=W, slopes=SLOPES)


def wave(peak: float, *, offset: float = 0.0, slope: float = 0.0) -> tuple[Objective, Objective]:
    """From w = 0 to w = 1: a bump that is highest at ``peak``, on a straight line."""
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(2, 1).double(), torch.zeros(2, 1).double())]

    def loss(outputs, targets):
        return (torch.exp(-(((outputs - peak) / 0.2) ** 2)) + offset + slope * outputs + targets).mean()

    objective = Objective(model, loss, data).at(torch.zeros(1).double())
    return objective, objective.at(torch.ones(1).double())


def test_the_loss_along_a_line_through_a_quadratic_is_the_closed_form_and_so_is_its_barrier():
    objective = saddle()
    result = interpolate(objective, objective.at(V), points=5)
    expected = [((1 - t) * W + t * V) @ A @ ((1 - t) * W + t * V) / 2 + B @ ((1 - t) * W + t * V) for t in result.t]
    assert np.allclose(result.losses, expected, rtol=1e-12)
    bend = float((V - W) @ A @ (V - W)) / 2  # the rise is −bend t (1 − t)
    assert result.barrier.height == pytest.approx(max(0.0, -bend / 4), abs=1e-12)
    down = interpolate(objective, objective.at(W + torch.linalg.eigh(A)[1][:, 0] * 3), points=5)
    assert down.barrier.height == pytest.approx(2 * 9 / 2 / 4, rel=1e-12)
    assert down.barrier.at == 0.5
    assert down.distance == down.length == pytest.approx(3.0, rel=1e-12)
    assert down.resolution <= 1e-3 * down.barrier.height


def test_a_path_without_a_rise_has_no_barrier():
    objective = saddle()
    up = objective.at(W + torch.linalg.eigh(A)[1][:, -1] * 3)
    assert interpolate(objective, up).barrier.height == 0.0
    assert rises(np.array([0, 0.3, 1]), np.array([0.1, 7.0, 0.7]))[[0, 2]].tolist() == [0.0, 0.0]


def test_the_places_of_a_path_are_the_checkpoints_themselves_at_its_ends():
    objective = problem("tanh_mlp").objective()
    other = objective.at(normal(objective.space.dim, seed=9))
    result = interpolate(objective, other, points=3)
    assert result.losses[0] == objective.loss(objective.weights).item()
    assert result.losses[-1] == objective.loss(other.weights).item()


@pytest.mark.parametrize("peak", [0.437, 0.5, 0.03, 0.97])
def test_points_gather_around_the_highest_until_the_barrier_is_settled(peak):
    first, other = wave(peak)
    result = interpolate(first, other, points=9, tolerance=1e-4)
    fine = np.linspace(0, 1, 200_001)
    exact = np.exp(-(((fine - peak) / 0.2) ** 2))
    truth = highest(fine, rises(fine, exact))
    assert result.num_even == 9 < len(result.t)
    assert 0 <= truth.height - result.barrier.height <= 1e-4 * np.ptp(rises(fine, exact))
    assert result.resolution <= 1e-4 * np.ptp(rises(fine, exact))
    assert abs(result.barrier.at - truth.at) < 0.02
    assert np.all(np.diff(result.t) > 0)


def test_the_barrier_is_settled_in_shares_of_the_rise_whatever_line_it_is_on():
    flat, steep = (interpolate(*wave(0.437, slope=slope), points=9, tolerance=1e-6) for slope in (0.0, 1e3))
    assert len(flat.t) == len(steep.t) > 9 + 4
    assert steep.barrier.at == flat.barrier.at


def test_refinement_ends_after_so_many_rounds_where_nothing_settles():
    result = interpolate(*wave(0.437), points=9, tolerance=1e-300)
    assert len(result.t) == 9 + 2 * 12
    assert result.resolution > 0


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_line_that_rises_by_nothing_but_rounding_is_settled_at_once(offset):
    done = []
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(2, 1).double(), torch.zeros(2, 1).double())]
    objective = Objective(model, lambda outputs, _: (outputs / 3 + offset).mean(), data).at(torch.ones(1).double() / 7)
    other = objective.at(torch.ones(1).double())
    result = interpolate(objective, other, points=11, progress=lambda *numbers: done.append(numbers))
    assert len(result.t) == 11 + 2  # one at each end, so that there is something to compare
    assert result.barrier.height == pytest.approx(0.0, abs=1e-15 * (1 + offset))
    assert done[-1] == (13, 13)


def test_a_parabola_counts_between_its_points_alone():
    t = np.array([0.0, 0.5, 1.0])
    assert _rise_between(t, np.array([0.0, -1.5, -4.0]), 0) == pytest.approx(0.0, abs=1e-15)  # its top is at −0.5
    assert _rise_between(t, np.array([-4.0, -1.5, 0.0]), 2) == pytest.approx(0.0, abs=1e-15)
    assert _rise_between(t, np.array([0.0, 1.0, 0.5]), 1) == pytest.approx(1 / 48, rel=1e-12)
    assert _rise_between(t, np.array([0.0, -1.0, 0.0]), 0) == 0.0


def test_a_barrier_that_moves_little_is_not_taken_for_settled_where_a_parabola_is_higher():
    first, other = wave(0.55)  # nearer to an even point than to the middles around it, which are no higher
    coarse = interpolate(first, other, points=5, tolerance=1e-4)
    assert coarse.barrier.height == pytest.approx(interpolate(first, other, points=201).barrier.height, abs=2e-4)
    assert coarse.losses[coarse.t == 0.5] > coarse.losses[coarse.t == 0.625]


def test_the_score_and_held_out_data_are_those_of_each_point():
    given = problem("tanh_mlp")
    objective = given.objective()
    other = objective.at(objective.weights + normal(objective.space.dim, seed=9))
    x, y = normal(11, 3, seed=30), classes(11, 3, seed=31)
    held_out = Objective(given.model, F.cross_entropy, ragged(x, y, (4, 4, 3)))
    result = interpolate(objective, other, points=5, held_out=held_out, score=accuracy)
    for t, *found in zip(result.t, result.scores, result.held_out_losses, result.held_out_scores, strict=True):
        w = torch.lerp(objective.weights, other.weights, float(t))
        model = objective.at(w).model
        losses = F.cross_entropy(model(x), y, reduction="none")
        right = (model(x).argmax(1) == y).double()
        expected = [(model(given.x).argmax(1) == given.y).double().mean(), losses.mean(), right.mean()]
        assert found == pytest.approx([float(value) for value in expected], rel=1e-12)
        place = int(np.flatnonzero(result.t == t)[0])
        assert result.held_out_stderrs[place] == pytest.approx(float(losses.std() / math.sqrt(11)), rel=1e-10)
        assert result.held_out_score_stderrs[place] == pytest.approx(float(right.std() / math.sqrt(11)), rel=1e-10)
    assert result.score == "accuracy"
    fall = highest(result.t, -rises(result.t, result.scores))
    assert result.score_barrier == fall


def test_the_error_of_a_held_out_barrier_is_that_of_differences_example_by_example():
    given = problem("tanh_mlp")
    objective = given.objective()
    other = objective.at(objective.weights + 2 * normal(objective.space.dim, seed=9))
    result = interpolate(objective, other, points=5, held_out=objective)
    barrier = result.held_out_barrier
    each = []
    for t in (barrier.at, 0.0, 1.0):
        outputs = objective.at(torch.lerp(objective.weights, other.weights, t)).model(given.x)
        each.append(F.cross_entropy(outputs, given.y, reduction="none").detach())
    differences = each[0] - (1 - barrier.at) * each[1] - barrier.at * each[2]
    assert barrier.height == pytest.approx(float(differences.mean()), rel=1e-12, abs=1e-14)
    assert barrier.stderr == pytest.approx(float(differences.std() / math.sqrt(N)), rel=1e-9, abs=1e-14)
    assert barrier.stderr != pytest.approx(result.held_out_stderrs[np.argmax(result.t == barrier.at)], rel=1e-3)


def test_scores_count_each_target_once_where_the_loss_has_class_weights():
    given = problem("tanh_mlp")
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.5]).double())
    objective = Objective(given.model, loss, ragged(given.x, given.y), chunk_size=4)
    other = objective.at(objective.weights + normal(objective.space.dim, seed=9))
    result = interpolate(objective, other, points=3, held_out=objective, score=accuracy)
    right = (given.model(given.x).argmax(1) == given.y).double().mean()
    assert result.scores[0] == pytest.approx(float(right), rel=1e-12)
    assert np.isnan(result.held_out_stderrs).all()  # the loss is no plain mean over examples
    assert np.isfinite(result.held_out_score_stderrs).all()


def test_a_loss_that_is_not_finite_stays_so_and_the_barrier_says_that():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(2, 1).double(), torch.zeros(2, 1).double())]
    objective = Objective(model, lambda y, _: torch.log((y - 0.5).abs() - 0.2).square().mean(), data)
    ends = [objective.at(torch.tensor([w]).double()) for w in (0.0, 1.0)]
    result = interpolate(*ends, points=5)
    assert np.isnan(result.losses).tolist() == [False, False, True, False, False]
    assert math.isnan(result.barrier.height)
    assert result.barrier.at == 0.5
    assert result.summary()["num_not_finite"] == 1
    assert len(result.t) == 5


def test_nothing_is_looked_for_around_a_loss_that_is_infinite():
    done = []
    data = [(torch.ones(2, 1).double(), torch.zeros(2, 1).double())]
    loss = lambda y, _: torch.where((y - 0.5).abs() < 0.1, math.inf, y.square()).mean()  # noqa: E731
    wall = Objective(nn.Linear(1, 1, bias=False).double(), loss, data)
    ends = [wall.at(torch.tensor([w]).double()) for w in (0.0, 1.0)]
    result = interpolate(*ends, points=5, progress=lambda *numbers: done.append(numbers))
    assert (len(result.t), result.barrier.height, result.barrier.at) == (5, math.inf, 0.5)
    assert done[-1] == (5, 5)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.inf, math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be a positive, finite number; got"):
        interpolate(*wave(0.4), tolerance=tolerance)


def test_neither_model_nor_objective_is_changed_and_the_answer_is_the_same_again(tmp_path):
    given = problem("conv_batch_norm")
    given.model[1].num_batches_tracked += 3
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    objective = given.objective()
    from landscape import Frozen

    other = objective.at(objective.weights + 1)
    result = interpolate(objective, other, points=3, batch_norm=Frozen(), held_out=objective, score=accuracy)
    assert all(torch.equal(value, before[name]) for name, value in given.model.state_dict().items())
    assert interpolate(objective, other, points=3, batch_norm=Frozen(), held_out=objective, score=accuracy) == result
    assert Result.load(result.save(tmp_path / "path.npz")) == result
    assert list(result.to_frame().columns) == [
        *("t", "loss", "accuracy", "held_out_loss", "held_out_stderr", "held_out_accuracy"),
        "held_out_accuracy_stderr",
    ]


def test_progress_ends_at_the_number_of_points():
    seen = []
    first, other = wave(0.4)
    result = interpolate(first, other, points=5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(result.t), len(result.t))
    assert all(done <= total for done, total in seen)


def test_the_same_weights_are_a_path_of_length_zero():
    objective = saddle()
    result = interpolate(objective, objective, points=3)
    assert result.barrier.height == pytest.approx(0.0, abs=1e-14)
    assert result.length == 0.0


def test_two_paths_between_other_checkpoints_can_be_compared_and_those_with_other_points_cannot():
    from landscape.manifest import require_comparable

    objective = saddle()
    paths = [interpolate(objective, objective.at(w), points=n) for w, n in ((V, 5), (-V, 5), (V, 7))]
    require_comparable({"a": paths[0].manifest, "b": paths[1].manifest})
    assert paths[0].manifest["subject"] != paths[1].manifest["subject"]
    with pytest.raises(ValueError, match="num_even: 5 or 7"):
        require_comparable({"a": paths[0].manifest, "c": paths[2].manifest})
