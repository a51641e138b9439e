"""Weights from elsewhere at the command line: every command that takes a RUN takes them, with the same numbers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import json_of, msam, refused
from torch import nn

from landscape import Result
from msam import load_task
from msam.checkpoints import read_weights
from msam.tasks.registry import complete_settings

SMALL = "--set hidden=8 --set train_examples=60"
TASK = f"--task digits {SMALL}"
FEW = "--probes 4 --steps 5 --points 5 --plane-points 3 -k 2 --microbatch-size 16"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and copies of its checkpoint that other programs could have written."""
    folder = tmp_path_factory.mktemp("weights")
    result = msam(f"train {SMALL} --batch-size 25 --epochs 2 --out {folder}/a")
    assert result.exit_code == 0, result.stderr
    state = read_weights(folder / "a" / "checkpoints" / "epoch-0002.safetensors")
    torch.save(state, folder / "copy.pt")
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    other = load_task("digits", {"hidden": 8, "train_examples": 60}).model(seed=7).state_dict()
    torch.save({"epoch": 2, "model": wrapped, "ema": other}, folder / "two.pt")
    return folder


def test_a_foreign_copy_has_the_very_numbers_of_the_run(folder):
    options = "--probes 4 --steps 5 -k 2"
    own = json_of(f"spectrum {folder}/a {options}")
    found = json_of(f"spectrum --weights {folder}/two.pt:model {TASK} {options}")
    for question in ("eigenvalues", "trace", "density"):
        paths = [Path(answers[question]["result"]) for answers in (found, own)]
        assert paths[0].name == paths[1].name  # a hash of weights, data and question
        assert paths[0].parent != paths[1].parent
        one, other = (vars(Result.load(path)) for path in paths)
        assert {name for name in one if not np.array_equal(one[name], other[name])} <= {"manifest", "seconds"}


def test_the_same_command_again_reads_answers_back_and_a_changed_file_does_not(folder, tmp_path):
    shutil.copy(folder / "copy.pt", tmp_path / "b.pt")
    command = f"sharpness --weights {tmp_path}/b.pt {TASK} --draws 3"
    first = json_of(command)
    answer = Path(first["sharpness"]["result"])
    written = answer.stat().st_mtime_ns
    assert json_of(command) == first
    assert answer.stat().st_mtime_ns == written
    torch.save(torch.load(folder / "two.pt", weights_only=True)["ema"], tmp_path / "b.pt")
    changed = json_of(command)
    assert changed["run"] == str(tmp_path / "b-msam-2")
    values = [Result.load(found["sharpness"]["result"]).value for found in (first, changed)]
    assert values[0] != values[1]


def test_what_was_done_to_names_is_said_on_standard_error(folder):
    result = msam(f"spectrum --weights {folder}/two.pt:model {TASK} --dry-run --json")
    assert "two.pt:model: 'module._orig_mod.' is stripped from 4 names\n" in result.stderr
    assert "two.pt:model: left out: epoch, ema\n" in result.stderr
    assert result.stdout.startswith("{")


def test_every_command_that_takes_a_run_takes_weights(folder, tmp_path):
    weights = f"--weights {folder}/copy.pt {TASK}"
    few = "--points 5 --tolerance 0"
    assert "line" in json_of(f"slice {weights} --through {folder}/two.pt:ema {few}")
    mixed = json_of(f"path {folder}/a --weights {folder}/two.pt:ema {TASK} --points 3 --out {tmp_path}/path.png")
    assert mixed["runs"] == [str(folder / "a"), str(folder / "two-ema-msam")]
    table = json_of(f"analyze {folder}/a {weights} {FEW} --draws 3")
    assert [(row["run"], row["seed"], row["num_microbatches"]) for row in table["runs"]] == [
        ("a", 0, 1),
        ("copy-msam", None, None),
    ]
    assert {**table["runs"][0], "run": 0, "group": 0, "seed": 0, "num_microbatches": 0} == {
        **table["runs"][1], "run": 0, "group": 0, "seed": 0, "num_microbatches": 0
    }  # fmt: skip


def test_the_report_invents_no_training(folder, tmp_path):
    out = tmp_path / "r.html"
    weights = f"--weights {folder}/two.pt:ema --weights {folder}/copy.pt {TASK}"
    assert msam(f"compare {weights} {FEW} --draws 3 --out {out}").exit_code == 0
    text = out.read_text()
    assert "Nothing is known of how two-ema-msam, copy-msam were trained" in text
    assert "Nothing is known of the training of copy-msam; its weights are those of" in text
    rows = re.findall(r"<tr><td>([^<]*)</td><td[^>]*>([^<]*)</td><td>([^<]*)</td>", text)
    assert rows == [
        ("two-ema-msam", "weights from two.pt:ema", "–"),
        ("copy-msam", "weights from copy.pt", "–"),
    ]
    settings = re.findall(r"<tr><th>([^<]*)</th>", text.split("How it was trained")[1].split("How it was measured")[0])
    taken = [name for name, value in complete_settings("digits", {}).items() if value is not None]
    assert sorted(settings) == sorted(["task", *(name.replace("_", " ") for name in taken)])
    written = (tmp_path / "r.csv").read_text().splitlines()
    assert written[1].startswith("two-ema-msam,weights from two.pt:ema,,,test_accuracy,")


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("spectrum --weights DIR/copy.pt", 2, "--weights FILE and --task, with its --model and --set, go together"),
        ("spectrum DIR/a --task digits", 2, "--weights FILE and --task, with its --model and --set, go together"),
        ("spectrum DIR/a --set hidden=8", 2, "--weights FILE and --task, with its --model and --set, go together"),
        ("spectrum", 2, "name a RUN, or --weights FILE with --task; it takes 1 in all, got 0"),
        ("spectrum DIR/a --weights DIR/copy.pt --task digits", 2, "it takes 1 in all, got 2"),
        ("compare", 2, "it takes at least one in all, got 0"),
        ("spectrum --weights DIR/copy.pt --task digit", 2, "did you mean 'digits'?"),
        ("spectrum --weights DIR/copy.pt --task digits --set hiden=3", 2, "did you mean 'hidden'?"),
        ("spectrum --weights DIR/copy.pt --task digits --set hidden", 2, "--set takes NAME=VALUE"),
        ("spectrum --weights DIR/none.pt TASK", 2, "there is no checkpoint at DIR/none.pt"),
        ("spectrum --weights DIR/a TASK", 2, "DIR/a is a run; name it as RUN"),
        ("spectrum --weights DIR TASK", 2, "is a folder without a checkpoint in it"),
        ("spectrum --weights DIR/two.pt TASK", 2, "could be the weights: model, ema. Choose one, as DIR/two.pt:model"),
        ("spectrum --weights DIR/two.pt:emma TASK", 2, "has no entry 'emma'"),
        ("spectrum --weights DIR/copy.pt --task digits", 2, "1.weight has shape (8, 64) and should have (128, 64)"),
        ("spectrum DIR/copy.pt", 2, "weights from elsewhere go with --weights FILE --task TASK"),
        ("spectrum --weights DIR/copy.pt TASK --all-checkpoints", 2, "nothing is known of how DIR/copy-msam was tra"),
        ("slice --weights DIR/copy.pt TASK --dims 2 --along trajectory", 2, "nothing is known of how DIR/copy-msam"),
        ("path --weights DIR/copy.pt --weights DIR/copy.pt TASK", 2, "is named twice"),
        ("compare --weights DIR/copy.pt --weights DIR/copy.pt TASK", 2, "is named twice"),
        ("flatness-vs-m DIR/copy-msam", 2, "there is no sweep at DIR/copy-msam"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(folder, line, status, words):
    msam(f"spectrum --weights {folder}/copy.pt {TASK} --dry-run")
    sentence = refused(line.replace("TASK", TASK).replace("DIR", str(folder)), status=status)
    assert words.replace("DIR", str(folder)) in sentence


def test_all_names_of_another_architecture_are_listed(folder, tmp_path):
    torch.save(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5))).state_dict(), tmp_path / "b.pt")
    result = msam(f"spectrum --weights {tmp_path}/b.pt {TASK}")
    assert result.exit_code == 2
    assert "not in the model (6): 0.weight, 0.bias, 2.weight, 2.bias, 4.weight, 4.bias\n" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.pt"]


def test_wrong_usage_adopts_nothing(folder, tmp_path):
    shutil.copy(folder / "copy.pt", tmp_path / "b.pt")
    refused(f"spectrum --weights {tmp_path}/b.pt {TASK} --budget soon", status=2)
    refused(f"slice --weights {tmp_path}/b.pt {TASK} --surface", status=2)
    refused(f"path --weights {tmp_path}/b.pt --weights {folder}/copy.pt {TASK} --out a.docx", status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.pt"]


USERS = """
import torch
from torch import nn
from torch.nn import functional
from msam import Examples, Task

def net(width):
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))

def rings(*, width: int = 4) -> Task:
    numbers = torch.Generator().manual_seed(0)
    parts = [Examples(torch.randn(n, 5, generator=numbers), torch.arange(n) % 3) for n in (25, 11)]
    return Task("rings", lambda: net(width), functional.cross_entropy, *parts, about="made up")
"""


def test_a_users_own_task_and_weights_in_a_folder_elsewhere(tmp_path):
    """As a user would: another folder, another process, a file that plain torch.save wrote."""
    (tmp_path / "rings.py").write_text(USERS)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    torch.save(model.state_dict(), tmp_path / "net.pt")
    command = [sys.executable, ROOT / "cli.py", "sharpness", "--weights", "net.pt", "--task", "rings:rings"]
    options = ["--set", "width=6", "--draws", "3", "--json"]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}  # the task is found in the working directory
    done = subprocess.run([*command, *options], cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("net.pt: adopted as net-msam\n")
    assert '"run": "net-msam"' in done.stdout
    assert (tmp_path / "net-msam" / "checkpoints" / "adopted.safetensors").is_file()
