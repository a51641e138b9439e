"""The largest eigenvalue at every checkpoint: what a checkpoint says by itself, resumable, begun at the neighbour's."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import analyses.along_training
from analyses.along_training import along_training, kept_checkpoints
from analyses.protocol import Protocol
from analyses.results import CurvatureInTraining
from landscape import HessianOperator, Result, top_eigenvalues
from msam import Run

PROTOCOL = Protocol(tol=1e-6)


@pytest.fixture(scope="module")
def trained_path(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(trained_path, train_run, base, tmp_path):
    """A copy of a run of descent with five checkpoints."""
    if not trained_path.exists():
        descent = dataclasses.replace(
            base, perturbation="none", momentum=0.5, schedule="constant", epochs=4, checkpoint_every=1
        )
        train_run(trained_path, descent)
    return Run.open(shutil.copytree(trained_path, tmp_path / "run"))


@pytest.fixture
def asked(monkeypatch):
    """The keyword arguments of every search."""
    calls = []
    search = analyses.along_training.top_eigenvalues

    def recorded(operator, **arguments):
        calls.append(arguments)
        return search(operator, **arguments)

    monkeypatch.setattr(analyses.along_training, "top_eigenvalues", recorded)
    return calls


def test_each_checkpoint_has_the_eigenvalue_that_it_has_by_itself(run):
    result = along_training(run, PROTOCOL).answer.result
    assert result.epochs.tolist() == [0, 1, 2, 3, 4]
    task = run.config.load_task()
    for i, path in enumerate(run.checkpoints()):
        alone = top_eigenvalues(HessianOperator(task.objective(Run.open(path).load_model(task))), tol=1e-6)
        assert result.largest_eigenvalues[i] == pytest.approx(alone.eigenvalues[0], rel=1e-5)
    assert result.converged.all()
    assert (result.residuals <= 1e-6 * result.largest_eigenvalues + 1e-5).all()
    np.testing.assert_allclose(result.thresholds, (2 + 2 * 0.5) / 0.1)


def test_each_search_begins_at_the_eigenvector_of_the_checkpoint_before(run, asked):
    along_training(run, PROTOCOL)
    assert asked[0]["initial"] is None
    task = run.config.load_task()
    for path, call in zip(run.checkpoints()[:-1], asked[1:], strict=True):
        before = top_eigenvalues(HessianOperator(task.objective(Run.open(path).load_model(task))), tol=1e-6)
        assert call["initial"].shape == (610, 1)
        assert abs(call["initial"][:, 0].double().numpy() @ before.eigenvectors[:, 0]) == pytest.approx(1, abs=1e-4)


def test_beginning_at_the_neighbour_saves_products(run):
    result = along_training(run, PROTOCOL).answer.result
    task = run.config.load_task()
    models = [Run.open(path).load_model(task) for path in run.checkpoints()]
    cold = [top_eigenvalues(HessianOperator(task.objective(model)), tol=1e-6).num_products for model in models]
    assert result.num_products[0] == cold[0]
    assert result.num_products[1:].sum() < sum(cold[1:])


def test_within_a_budget_that_is_spent_the_rest_is_left_for_the_next_call(run):
    course = along_training(run, PROTOCOL, seconds=1e-9)
    assert len(course.answer.result.epochs) + len(course.unmeasured) == 5
    assert course.unmeasured
    assert "the same command goes on with them" in course.remarks()[-1]
    assert along_training(run, PROTOCOL).answer.result.converged.all()


def test_what_has_been_measured_is_not_measured_again(run, asked):
    first = along_training(run, PROTOCOL)
    assert len(asked) == 5
    assert along_training(run, PROTOCOL).answer == first.answer
    assert len(asked) == 5
    kept = sorted((run.path / "results").glob("largest-*.npz"))
    assert len(kept) == 5
    kept[2].unlink()
    again = along_training(run, PROTOCOL)
    assert len(asked) == 6
    assert again.answer.path == first.answer.path


def test_an_interrupted_call_goes_on_where_it_stopped(run, monkeypatch):
    search, count = analyses.along_training.top_eigenvalues, [0]

    def interrupted(operator, **arguments):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return search(operator, **arguments)

    monkeypatch.setattr(analyses.along_training, "top_eigenvalues", interrupted)
    with pytest.raises(KeyboardInterrupt):
        along_training(run, PROTOCOL)
    assert len(along_training(run, PROTOCOL).answer.result.epochs) == 5
    assert count == [6]  # two, the interrupted one, and the three that were left


def test_the_result_is_saved_with_its_table_and_says_what_it_took(run):
    course = along_training(run, PROTOCOL)
    loaded = Result.load(course.answer.path)
    assert isinstance(loaded, CurvatureInTraining)
    assert loaded == course.answer.result
    header, *rows = course.table.read_text().splitlines()
    assert header == "epoch,largest_eigenvalue,residual,converged,num_products,learning_rate,threshold"
    assert len(rows) == len(loaded.summary()["checkpoints"]) == len(loaded.lines()) == 5
    assert all(" products; threshold 30" in line.remark for line in loaded.lines())
    assert loaded.manifest["measurement"] == {"name": "along_training", "tol": 1e-6, "seed": 0}
    assert course.unreadable == {}
    assert course.unmeasured == []


def test_a_damaged_checkpoint_is_left_out_and_named_and_the_others_are_measured(run):
    damaged = run.checkpoints()[2]
    damaged.write_bytes(damaged.read_bytes()[:500])
    course = along_training(run, PROTOCOL)
    assert course.answer.result.epochs.tolist() == [0, 1, 3, 4]
    assert list(course.unreadable) == [damaged]
    assert "is not a whole safetensors file" in course.unreadable[damaged]
    assert course.content()["failed"][0]["checkpoint"] == damaged


def test_where_no_checkpoint_can_be_read_it_fails(run):
    for path in run.checkpoints():
        path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"none of the 5 checkpoints of .* can be measured: .*safetensors"):
        along_training(run, PROTOCOL)


def test_a_run_without_several_checkpoints_is_refused(run):
    with pytest.raises(ValueError, match="is one checkpoint; name the run directory"):
        kept_checkpoints(Run.open(run.checkpoints()[1]))
    for path in run.checkpoints()[:-1]:
        path.unlink()
    with pytest.raises(ValueError, match=r"has kept epoch-0004.safetensors alone; train with --checkpoint-every 1"):
        along_training(run, PROTOCOL)
    run.checkpoints()[0].unlink()
    with pytest.raises(FileNotFoundError, match="has no checkpoint; train it first"):
        along_training(run, PROTOCOL)
