"""What killed and competing processes leave in a run: it is removed, and nothing of the living is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from msam import Run, TrainConfig

CONFIG = TrainConfig(epochs=2, settings={"hidden": 3})


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "a", CONFIG)


def leftover(folder, *, age=0.0):
    """What a killed process would have left in a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / ".a.json.0123abcd.partial"
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_run_that_cannot_be_written_is_whole_when_it_was_to_be_replaced(run, monkeypatch):
    kept = run.path / "checkpoints" / "epoch-0002.safetensors"
    kept.parent.mkdir()
    kept.write_text("weights")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != run.path)  # for root, all can be written
        with pytest.raises(PermissionError):
            Run.create(run.path, TrainConfig(epochs=5), overwrite=True)
    assert kept.read_text() == "weights"
    assert Run.open(run.path).config == CONFIG


def test_what_a_killed_process_left_is_removed_when_the_run_is_trained_again(run):
    old = [leftover(run.path), leftover(run.path / "checkpoints")]
    old += [leftover(run.path / name, age=4000) for name in ("results", "figures")]
    with run.locked():
        assert not any(path.exists() for path in old)
    measuring = leftover(run.path / "results")  # by another process, which takes no lock
    with run.locked():
        assert measuring.exists()


def test_what_another_process_is_writing_is_not_removed(run):
    with run.locked():
        path = leftover(run.path)
        with pytest.raises(ValueError, match="another process is training"), run.locked():
            pass
        assert path.exists()


def test_a_folder_with_nothing_but_what_a_killed_process_left_may_become_a_run(tmp_path):
    left = leftover(tmp_path / "a")
    run = Run.create(tmp_path / "a", CONFIG)
    with run.locked():
        assert not left.exists()


def test_a_run_that_was_being_replaced_when_its_process_was_stopped_is_still_a_run(run, monkeypatch):
    (run.path / "results").mkdir()
    (run.path / "metrics.csv").write_text("epoch\n1\n")
    (run.path / "link").symlink_to(run.path.parent, target_is_directory=True)

    def interrupted(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Run.create(run.path, TrainConfig(epochs=5), overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["config.json"]
    assert Run.open(run.path).config == CONFIG


def test_of_two_processes_that_begin_a_run_in_one_folder_one_is_refused(tmp_path, monkeypatch):
    with Run(tmp_path, CONFIG).locked(), pytest.raises(ValueError, match="another process is training in"):
        Run.create(tmp_path, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_left_nothing_is_begun_again_with_the_same_settings_alone(run):
    (run.path / "notes.txt").write_text("mine")
    assert Run.create(run.path, CONFIG).config == CONFIG
    with pytest.raises(FileExistsError, match="holds a run already"):
        Run.create(run.path, TrainConfig(epochs=5))
    assert Run.open(run.path).config == CONFIG
    assert (run.path / "notes.txt").read_text() == "mine"
