"""Where slices look: the directions of a checkpoint, its training, and other checkpoints."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from analyses import surroundings
from analyses.subject import Subject
from analyses.views import View
from landscape import HessianOperator
from landscape.slices import line_slice, plane_slice
from msam import Run, TrainConfig, train


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Run:
    """A run with its checkpoints of three epochs, the initial one included."""
    config = TrainConfig(settings={"train_examples": 60, "hidden": 8}, epochs=3, batch_size=30, checkpoint_every=1)
    return train(config.load_task(), config, Run.create(tmp_path_factory.mktemp("long") / "run", config))


@pytest.fixture
def fresh(long_run, tmp_path) -> Run:
    shutil.copytree(long_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("results"))
    return Run.open(tmp_path / "run")


@pytest.fixture
def few(protocol):
    return dataclasses.replace(protocol, line_points=5, plane_points=4)


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        ({"along": "gradient"}, "along must be one of random, eigenvectors, trajectory; got 'gradient'"),
        ({"along": "trajectory"}, "a trajectory is seen in a plane; ask for two dimensions"),
        ({"through": ["a"], "along": "eigenvectors"}, "goes along eigenvectors, or through other checkpoints"),
        ({"through": ["a", "b"]}, "a line goes through one other checkpoint; got 2"),
        ({"through": ["a"], "dims": 2}, "a plane goes through two others; got 1"),
    ],
)
def test_directions_that_do_not_go_together_are_refused(view, sentence):
    with pytest.raises(ValueError, match=sentence):
        View(**view)


def test_a_line_through_another_checkpoint_has_its_loss_at_one(fresh, few):
    other = Run.open(fresh.weights_path(1))
    subject = Subject(fresh, few)
    result = surroundings.line(subject, View(through=[other.checkpoint])).result
    assert result.mark_names.tolist() == ["run", "run/epoch-0001"]
    assert result.marks.tolist() == [0.0, 1.0]
    there = Subject(other, few).objective
    again = line_slice(subject.objective, there.weights - subject.objective.weights, coordinates=[1.0])
    assert np.isclose(again.losses[0], there.loss(there.weights).item(), rtol=1e-5)
    assert {0.0} <= set(result.coordinates.tolist())
    assert result.coordinates.min() < 0 < 1 < result.coordinates.max()
    assert result.held_out_losses.shape == result.scores.shape == result.losses.shape


def test_a_plane_through_two_other_checkpoints_marks_all_three(fresh, few):
    others = [fresh.weights_path(epoch) for epoch in (0, 1)]
    result = surroundings.plane(Subject(fresh, few), View(through=others, dims=2)).result
    assert result.mark_names.tolist() == ["run", "run/epoch-0000", "run/epoch-0001"]
    assert result.x.min() < result.marks[:, 0].min()
    assert result.y.max() > result.marks[:, 1].max()


def test_the_plane_of_a_training_has_all_its_checkpoints_up_to_the_one_that_is_measured(fresh, few):
    result = surroundings.plane(Subject(fresh, few), View(along="trajectory", dims=2)).result
    assert len(result.path) == 4
    assert np.allclose(result.path[-1], 0)  # the checkpoint itself
    earlier = surroundings.plane(Subject(Run.open(fresh.weights_path(2)), few), View(along="trajectory", dims=2)).result
    assert len(earlier.path) == 3
    assert earlier.path_distances.max() < 1e-5  # three points lie in a plane


def test_a_checkpoint_that_is_normalised_by_the_statistics_of_another_is_named_so(tmp_path, few):
    config = TrainConfig(settings={"train_examples": 20, "model": "cnn-bn", "width": 4}, epochs=1, checkpoint_every=1)
    run = train(config.load_task(), config, Run.create(tmp_path / "run", config))
    subject, other = Subject(run, few), run.weights_path(0)
    result = surroundings.line(subject, View(through=[other])).result
    assert result.mark_names.tolist() == ["run", "run/epoch-0000, batch norm of run"]
    own = Subject(Run.open(other), few).objective
    here = subject.objective.loss(subject.weights_at(Run.open(other)))  # what is drawn there
    assert here.item() != pytest.approx(own.loss(own.weights).item(), rel=1e-5)


@pytest.mark.parametrize("epochs", [None, (0, 1)], ids=["along the training", "through two others"])
def test_each_checkpoint_is_read_once_for_a_plane(fresh, few, monkeypatch, epochs):
    others = [] if epochs is None else [fresh.weights_path(epoch) for epoch in epochs]
    view = View(through=others, dims=2) if others else View(along="trajectory", dims=2)
    subject, read, other = Subject(fresh, few), [], Subject.other
    monkeypatch.setattr(Subject, "other", lambda own, run: read.append(run.checkpoint) or other(own, run))
    surroundings.plane(subject, view)
    assert read == (others or fresh.checkpoints())


def test_checkpoints_are_in_the_order_of_training_beyond_epoch_9999(fresh, few):
    for epoch in (3, 2, 1, 0):
        fresh.weights_path(epoch).rename(fresh.weights_path(9998 + epoch))
    paths = [
        surroundings.plane(Subject(Run.open(fresh.weights_path(last)), few), View(along="trajectory", dims=2)).result
        for last in (10000, 10001)
    ]
    assert [len(result.path) for result in paths] == [3, 4]


def test_a_training_of_too_few_checkpoints_spans_no_plane(fresh, few):
    with pytest.raises(
        ValueError, match=r"needs at least three checkpoints and has 2; train it with --checkpoint-every"
    ):
        surroundings.plane(Subject(Run.open(fresh.weights_path(1)), few), View(along="trajectory", dims=2))


def test_eigenvectors_are_walked_along_as_they_are(fresh, few):
    subject = Subject(fresh, dataclasses.replace(few, reach=0.3))
    result = surroundings.line(subject, View(along="eigenvectors")).result
    assert result.length == pytest.approx(1, abs=1e-5)
    _, axis, coordinates = View(along="eigenvectors").line(subject)
    top = (axis.direction @ HessianOperator(subject.objective).apply(axis.direction)).item()
    losses = line_slice(subject.objective, axis, coordinates=coordinates).losses
    bend = np.polyfit(coordinates, losses, 2)[0] * 2
    assert bend == pytest.approx(top, rel=0.2)  # a ReLU has kinks
    plane = surroundings.plane(subject, View(along="eigenvectors", dims=2)).result
    assert np.allclose(plane.lengths, 1, atol=1e-5)
    assert abs(plane.cosine) < 1e-5


def test_a_checkpoint_of_another_architecture_or_task_is_refused(fresh, few, tmp_path):
    config = TrainConfig(settings={"train_examples": 60, "hidden": 5}, epochs=1, batch_size=30)
    other = train(config.load_task(), config, Run.create(tmp_path / "other", config))
    with pytest.raises(ValueError, match="of another architecture"):
        surroundings.line(Subject(fresh, few), View(through=[other.path]))
    foreign = Run(other.path, dataclasses.replace(other.config, task="mylab:task"))
    with pytest.raises(ValueError, match=r"is of the task mylab:task and .* of digits; name checkpoints of one task"):
        Subject(fresh, few).weights_at(foreign)


def test_a_slice_that_was_killed_goes_on_and_leaves_nothing_behind(fresh, few, monkeypatch):
    subject = Subject(fresh, few)

    def killed(*arguments, progress, **settings):
        def stop(done, number):
            if done >= 9:
                raise KeyboardInterrupt

        return plane_slice(*arguments, progress=stop, **settings)

    monkeypatch.setattr(surroundings, "plane_slice", killed)
    with pytest.raises(KeyboardInterrupt):
        surroundings.plane(subject)
    (left,) = (fresh.path / "results").glob("unfinished-plane-*.npz")
    counts = []

    def counted(*arguments, progress, **settings):
        return plane_slice(*arguments, progress=lambda done, number: counts.append(done), **settings)

    monkeypatch.setattr(surroundings, "plane_slice", counted)
    result = surroundings.plane(Subject(fresh, few)).result
    assert min(counts) >= 9
    assert not left.exists()
    monkeypatch.undo()
    shutil.rmtree(fresh.path / "results")
    assert np.array_equal(result.losses, surroundings.plane(Subject(fresh, few)).result.losses)


def test_a_tolerance_interpolates_and_is_another_question(fresh, few):
    dense = dataclasses.replace(few, plane_points=15)
    whole = surroundings.plane(Subject(fresh, dense))
    thin = surroundings.plane(Subject(fresh, dataclasses.replace(dense, tolerance=0.1)))
    assert thin.path != whole.path
    assert thin.result.num_evaluated < 225 == whole.result.num_evaluated
    span = np.ptp(whole.result.losses)
    assert np.abs(thin.result.losses - whole.result.losses).max() <= 0.1 * span


def test_a_slice_of_a_task_without_classes_has_no_score(fresh, few, monkeypatch):
    monkeypatch.setattr(Subject, "score", None)
    result = surroundings.line(Subject(fresh, few)).result
    assert (result.score, result.scores, result.held_out_scores) == ("", None, None)
    assert result.held_out_losses is not None
