"""The command ``msam path``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import msam, refused

from landscape import PathLosses, Result

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25 --epochs 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of one task, and one of a wider network."""
    folder = tmp_path_factory.mktemp("runs")
    for line in (f"{SMALL} --out {folder}/a", f"{SMALL} --seed 1 --out {folder}/b"):
        assert msam(f"train {line}").exit_code == 0
    wide = SMALL.replace("hidden=8", "hidden=9")
    assert msam(f"train {wide} --out {folder}/wide").exit_code == 0
    return folder


def test_a_path_prints_saves_and_draws_what_was_asked(folder):
    line = f"path {folder}/a {folder}/b --align --bezier --points 3"
    result = msam(f"{line} --json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    for name in ("straight", "aligned", "bezier"):
        answer = content[name]
        assert {"barrier", "barrier_at", "resolution", "held_out_barrier_stderr", "score_barrier"} <= answer.keys()
        saved = Result.load(answer["result"])
        assert isinstance(saved, PathLosses)
        assert saved.barrier.height == answer["barrier"]
    assert Path(content["figure"]).parent == folder / "a" / "figures"
    assert Path(content["figure"]).read_bytes().startswith(b"\x89PNG")
    table = msam(line).stdout
    assert "barrier in held-out accuracy" in table
    assert "straight line after alignment, at t = " in table
    assert content["bezier"]["result"] in table


def test_a_checkpoint_and_a_name_for_the_figure_are_taken(folder, tmp_path):
    start = folder / "a" / "checkpoints"
    first = sorted(start.glob("epoch-*.safetensors"))[0]
    result = msam(f"path {first} {folder}/b --points 3 --batch-norm frozen --out {tmp_path}/between.pdf --json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["checkpoints"][0] == str(first)
    assert "aligned" not in content
    assert (tmp_path / "between.pdf").read_bytes().startswith(b"%PDF")


def test_paths_can_be_plotted_together(folder, tmp_path):
    content = json.loads(msam(f"path {folder}/a {folder}/b --align --points 3 --json").stdout)
    files = " ".join(content[name]["result"] for name in ("straight", "aligned"))
    assert msam(f"plot {files} --out {tmp_path}/both.svg").exit_code == 0


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("path DIR/a DIR/a", 2, "is named twice"),
        ("path DIR/a DIR/wide", 2, "they differ in hidden (8 and 9). Name runs with the same task"),
        ("path DIR/a", 2, "it takes 2 in all, got 1"),
        ("path DIR/a DIR/none", 2, "there is no run at"),
        ("path DIR/a DIR/b --points 2", 2, "2 is not in the range x>=3"),
        ("path DIR/a DIR/b --batch-norm kept", 2, "'kept' is not one of"),
        ("path DIR/a DIR/b --out DIR/figure.docx", 2, "cannot write a figure as 'docx'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(folder, line, status, words):
    assert words in refused(line.replace("DIR", str(folder)), status=status)
