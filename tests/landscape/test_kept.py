"""A grid that was killed goes on from its finished points, to the same numbers bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import normal, problem, quadratic, symmetric

from landscape import Adaptive, accuracy, filter_normalized, line_slice, plane_slice
from landscape.kept import EVERY, FinishedPoints, Kept

OBJECTIVE = problem("conv_batch_norm").objective()
D1, D2 = filter_normalized(OBJECTIVE, seed=0), filter_normalized(OBJECTIVE, seed=1)
X, Y = np.linspace(-1, 1, 5), np.linspace(0.1, 1, 4)  # 20 points


def ask(path=None, **settings):
    """A plane, and how many points it evaluated."""
    reports = []
    report = settings.pop("progress", lambda done, total: None)

    def progress(done, total):
        reports.append(done)
        report(done, total)

    given = {"x": X, "y": Y, "score": accuracy, "held_out": OBJECTIVE.sample(7, seed=0)} | settings
    result = plane_slice(OBJECTIVE, (D1, D2), kept=path, progress=progress, **given)
    return result, len(reports)


def killed(path, at, error=KeyboardInterrupt, **settings):
    def progress(done, total):
        if done == at:
            raise error

    with pytest.raises(error):
        ask(path, progress=progress, **settings)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_grid_killed_at_sixty_per_cent_evaluates_the_other_forty_and_is_the_same(error, tmp_path):
    path = tmp_path / "new" / "points.npz"
    killed(path, 12, error)
    assert FinishedPoints.load(path).summary() == {"num_points": 20, "num_finished": 12}
    result, number = ask(path)
    assert number == 8
    assert result == ask()[0]  # every array and the manifest
    assert [entry.name for entry in path.parent.iterdir()] == ["points.npz"]


def test_a_grid_that_is_complete_is_answered_at_once(tmp_path):
    first, number = ask(tmp_path / "p.npz")
    assert number == 20
    again, number = ask(tmp_path / "p.npz")
    assert number == 0
    assert again == first


def test_points_that_are_not_finite_are_kept_too(tmp_path):
    given = quadratic(symmetric(torch.linspace(1, 3, 4).double()), w=normal(4))
    settings = {"coordinates": [0.5, 1e200, -1e200, 0.7], "kept": tmp_path / "p.npz"}

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        line_slice(given, normal(4, seed=1), progress=stop, **settings)
    reports = []
    result = line_slice(given, normal(4, seed=1), progress=lambda *report: reports.append(report), **settings)
    assert reports == [(3, 4), (4, 4)]
    assert np.isfinite(result.losses).tolist() == [True, False, False, True]


def test_an_adaptive_slice_goes_on_from_the_points_of_any_other(tmp_path):
    settings = {"x": np.linspace(-1, 1, 15), "y": np.linspace(-1, 1, 15), "sampling": Adaptive(tolerance=0.05)}
    alone, needed = ask(**settings)
    assert needed < 225
    killed(tmp_path / "p.npz", 30, **settings)
    result, number = ask(tmp_path / "p.npz", **settings)
    assert number == needed - 30
    assert result == alone
    _, number = ask(tmp_path / "p.npz", **(settings | {"sampling": None}))
    assert number == 225 - needed


OTHERS = {
    "coordinates": ({"x": X + 0.1}, r"measurement.x: 5 values from -1 to 1 or 5 values from -0.9 to 1.1|measurement.x"),
    "number of points": ({"y": Y[:3]}, "measurement.y"),
    "score": ({"score": None}, "measurement.score"),
    "held-out data": ({"held_out": None}, "held_out.data"),
}


@pytest.mark.parametrize(("settings", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_points_of_another_question_are_refused_and_left_as_they_are(settings, words, tmp_path):
    path = tmp_path / "p.npz"
    ask(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"p.npz' holds points of another question, which differ in .*({words})"):
        ask(path, **settings)
    assert path.read_bytes() == before


def test_points_of_other_weights_directions_and_data_are_refused(tmp_path):
    path = tmp_path / "p.npz"
    line_slice(OBJECTIVE, D1, coordinates=X, kept=path)
    for objective, direction, words in (
        (OBJECTIVE, D2, "weights.direction"),
        (OBJECTIVE.at(OBJECTIVE.weights + 1), D1, "weights.weights"),
        (OBJECTIVE.sample(9, seed=0), D1, "objective.sample_of"),
    ):
        with pytest.raises(ValueError, match=f"another question.*{words}"):
            line_slice(objective, direction, coordinates=X, kept=path)


@pytest.mark.parametrize("content", [b"not an archive", b""])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / "p.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"kept='.*p.npz' cannot be gone on with: .* is not a whole result file"):
        line_slice(OBJECTIVE, D1, coordinates=X, kept=path)
    assert path.read_bytes() == content
    line_slice(OBJECTIVE, D1, coordinates=X).save(path)
    with pytest.raises(ValueError, match="holds a LineSlice; expected FinishedPoints"):
        line_slice(OBJECTIVE, D1, coordinates=X, kept=path)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path):
    reports = []
    with pytest.raises(OSError, match="Is a directory"):
        line_slice(OBJECTIVE, D1, coordinates=X, kept=tmp_path, progress=lambda *report: reports.append(report))
    assert not reports


def test_points_are_written_every_few_seconds(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("landscape.kept.time.monotonic", lambda: clock[0])
    kept, path = Kept(tmp_path / "p.npz", {"a": 1}), tmp_path / "p.npz"
    values, finished = np.zeros((3, 1)), np.array([True, False, False])
    kept.write(values, finished, now=False)
    assert not path.exists()
    clock[0] = EVERY
    kept.write(values, finished, now=False)
    assert FinishedPoints.load(path).finished.tolist() == [True, False, False]
    finished[1] = True
    clock[0] += EVERY / 2
    kept.write(values, finished, now=False)
    assert FinishedPoints.load(path).to_frame()["finished"].sum() == 1
    kept.write(values, finished)
    assert FinishedPoints.load(path).lines()[0].value == 2


def test_without_a_file_none_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line_slice(OBJECTIVE, torch.ones(41), coordinates=X)
    assert list(tmp_path.iterdir()) == []
