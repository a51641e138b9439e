"""A task is loaded once by each command, however many runs are trained or measured on it."""

from __future__ import annotations

import pytest
from commands import json_of, msam, refused

OWN = '''
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from msam import Examples, Task

KEPT = nn.Linear(3, 2)


def counted(*, width: int = 4) -> Task:
    """Three numbers, two classes."""
    with Path("loaded").open("a") as stream:
        stream.write(f"{width}\\n")
    draws = torch.Generator().manual_seed(0)
    train, test = (Examples(torch.randn(n, 3, generator=draws), torch.arange(n) % 2) for n in (12, 6))
    build = lambda: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    return Task("counted", build, functional.cross_entropy, train, test, about="made up")


def kept() -> Task:
    """A task that builds the same model each time."""
    task = counted()
    return Task("kept", lambda: KEPT, functional.cross_entropy, task.train, task.test, about="made up")
'''
SHORT = "--task own_counted:counted --epochs 1 --batch-size 6"
FEW = "-k 1 --probes 2 --steps 2 --points 2 --plane-points 2 --microbatch-size 6"


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """The settings a task was loaded with since it was last asked; its module lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_counted.py").write_text(OWN)

    def since():
        found = (tmp_path / "loaded").read_text().split()
        (tmp_path / "loaded").unlink()
        return found

    return since


def test_a_training_loads_its_task_once(loaded):
    json_of("train", SHORT, "--micro-batches 2 --trainable 0.* --out a")
    assert loaded() == ["4"]
    json_of("train", SHORT, "--micro-batches 2 --trainable 0.* --resume --out a")
    assert loaded() == ["4"]


def test_a_sweep_loads_its_task_once_and_so_does_a_study_of_its_runs(loaded):
    swept = json_of("sweep", SHORT, "--micro-batches 1,2 --seeds 2 --out s")["runs"]
    assert loaded() == ["4"]
    alone = json_of("train", SHORT, "--micro-batches 2 --seed 1 --out a")
    assert [swept[-1][name] for name in ("train_loss", "test_loss")] == [alone["train_loss"], alone["test_loss"]]
    loaded()
    json_of("flatness-vs-m s --probes 2 --microbatch-size 6")
    assert loaded() == ["4"]


def test_a_study_loads_a_task_once_for_each_of_its_settings(loaded):
    for name, width in (("a", 4), ("b", 5), ("c", 4)):
        json_of("train", SHORT, f"--set width={width} --out {name}")
    loaded()
    assert msam("compare a b c", FEW, "--out r.html").exit_code == 1  # of another architecture
    assert loaded() == ["4", "5"]


def test_models_that_share_their_parameters_are_refused(loaded):
    sentence = refused("train --task own_counted:kept --epochs 1 --batch-size 6 --out a", status=1)
    assert sentence.startswith("the task kept builds models that share the parameter weight, so that training one")
    assert "copy.deepcopy" in sentence
