"""How train and sweep answer: one shape each, also when a training diverges; and what is refused before it costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import msam, refused

import cli

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25 --epochs 2"
FEW = "-k 1 --probes 2 --steps 3 --points 3 --plane-points 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, a sweep, and two results of different kinds."""
    folder = tmp_path_factory.mktemp("runs")
    for line in (
        f"train {SMALL} --out {folder}/a",
        f"sweep {SMALL} --perturbation none,sam --micro-batches 1,2 --seeds 1 --out {folder}/s",
        f"sharpness {folder}/a",
        f"slice {folder}/a --points 51",
        f"slice {folder}/a --points 41",
    ):
        result = msam(line)
        assert result.exit_code == 0, result.stderr
    return folder


def test_a_sweep_of_one_run_has_the_shape_of_a_sweep(tmp_path):
    result = msam(f"sweep {SMALL} --micro-batches 2 --seeds 1 --out {tmp_path}/s --json")
    content = json.loads(result.stdout)
    assert content.keys() == {"runs", "failed"}
    (run,) = content["runs"]
    assert run.keys() >= {"run", "checkpoint", "config", "epoch", "test_accuracy"}
    assert repr(run["epoch"]) == "2"
    assert content["failed"] == []


def test_a_train_that_diverges_prints_no_json_and_fails(tmp_path):
    sentence = refused(f"train {SMALL} --lr 1e30 --rho 0 --out {tmp_path}/a --json", status=1)
    assert "became nan in epoch 1" in sentence or "no longer finite in epoch 1" in sentence


def test_a_sweep_in_which_a_run_diverges_tells_which_and_trains_the_others(tmp_path):
    line = f"sweep {SMALL} --perturbation none,sam --micro-batches 1 --rho 0.05,1e38 --seeds 1 --out {tmp_path}/s"
    result = msam(f"{line} --json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert [Path(run["run"]).name for run in content["runs"]] == ["run-01", "run-02"]
    (failed,) = content["failed"]
    assert failed["run"] == f"{tmp_path}/s/run-03"
    assert "Lower the learning rate" in failed["error"]
    assert f"Error: {failed['run']}: {failed['error']}" in result.stderr
    shown = msam(line)
    assert shown.exit_code == 1
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [
        "run",
        f"{tmp_path}/s/run-01",
        f"{tmp_path}/s/run-02",
    ]


def test_one_micro_batch_is_not_called_micro_batches(folder, tmp_path):
    errors = msam(f"train {SMALL} --epochs 1 --out {tmp_path}/a").stderr
    assert errors.strip() == f"{tmp_path}/a: SAM, seed 0"
    errors = msam(f"train {SMALL} --epochs 1 --micro-batches 2 --out {tmp_path}/b").stderr
    assert errors.strip() == f"{tmp_path}/b: mSAM, 2 micro-batches, seed 0"


def test_momentum_for_adamw_is_wrong_usage_where_it_is_given(tmp_path):
    for command in ("train", "sweep"):
        sentence = refused(f"{command} {SMALL} --optimizer adamw --momentum 0.9 --out {tmp_path}/x", status=2)
        assert sentence == "--momentum is of sgd, and adamw does not take it; leave it out"
    assert msam(f"train {SMALL} --optimizer adamw --lr 0.01 --out {tmp_path}/a").exit_code == 0
    assert "--momentum is of sgd" in refused(f"train --out {tmp_path}/a --resume --momentum 0.9", status=2)
    assert msam(f"train --out {tmp_path}/a --resume").exit_code == 0


@pytest.mark.parametrize("hidden", [99999999999, 10**18, 10**20])
def test_a_model_that_does_not_fit_into_memory_is_a_sentence_and_writes_nothing(hidden, folder, tmp_path):
    before = sorted((folder / "a").rglob("*"))
    for out in (f"--out {tmp_path}/x", f"--out {folder}/a --overwrite"):
        assert "there is not enough memory" in refused(f"train --set hidden={hidden} {out}", status=1)
    assert "there is not enough memory" in refused(f"sweep --set hidden={hidden} --out {tmp_path}/x", status=1)
    assert list(tmp_path.iterdir()) == []
    assert sorted((folder / "a").rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--out", ""), "'--out': a path is missing"),
        (("spectrum", ""), "'RUN': a path is missing"),
        (("plot", ""), "'RESULT...': a path is missing"),
        (("train --out TMP/x --set", ""), "--set takes NAME=VALUE; got ''"),
        (("train --out TMP/x --model mlp --set model=cnn-bn",), "--model mlp and --set model=cnn-bn differ"),
        (("sweep --out TMP/x --rho", ""), "'--rho': it takes a list such as 1,2,4; got ''"),
        (("plot RUN/results/LINE RUN/results/LINE",), "is named twice; name each result once"),
    ],
)
def test_more_wrong_usage(words, sentence, folder, tmp_path):
    line = next((folder / "a" / "results").glob("line-*.npz")).name
    words = [w.replace("RUN", f"{folder}/a").replace("LINE", line).replace("TMP", str(tmp_path)) for w in words]
    assert sentence in refused(*words, status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "spectrum DIR/s",
            "it is a sweep, which msam analyze, compare and flatness-vs-m take; name one of its runs (run-",
        ),
        ("spectrum DIR/a/metrics.csv", "a RUN is a run directory, or an epoch in its checkpoints/"),
        ("spectrum DIR/a/checkpoints", "it is a part of the run"),
        ("flatness-vs-m DIR/a", "it is a single run"),
        ("plot DIR/a/results", "is a folder and not a result"),
        ("plot DIR/a/config.json", "it is no whole .npz archive"),
        ("slice DIR/a --points 1000000000000", "there is not enough memory"),
        ("flatness-vs-m DIR/s --out TMP/f.xyz", "cannot write a figure as 'xyz'"),
        ("flatness-vs-m DIR/s --out DIR", "is a directory"),
        (f"compare DIR/a {FEW} --out DIR/a/config.json/r.html", "not a directory"),
    ],
)
def test_more_that_fails_before_anything_is_measured(line, sentence, folder, tmp_path):
    result = msam(line.replace("DIR", str(folder)).replace("TMP", str(tmp_path)))
    assert result.exit_code == (1 if "memory" in sentence else 2)
    assert sentence in result.stderr
    assert "a defect" not in result.stderr
    assert "eigenvalues" not in result.stderr


def test_results_of_mixed_kinds_are_refused_for_that_reason(folder, tmp_path):
    one, other = (next((folder / "a" / "results").glob(f"{kind}-*.npz")) for kind in ("line", "sharpness"))
    sentence = refused(f"plot {one} {other} --out {tmp_path}/f.png", status=2)
    assert sentence == f"{one} is of kind 'line slice' and {other} of kind 'm-sharpness'; name results of one kind"
    lines = sorted((folder / "a" / "results").glob("line-*.npz"))
    sentence = refused(f"plot {lines[0]} {lines[1]} --out {tmp_path}/f.png", status=2)
    assert re.search(r"coordinates: (51|41) values from -1 to 1 or (41|51) values from -1 to 1\. Compare", sentence)


def test_a_place_that_cannot_be_written_is_known_before_it_is_measured(folder, tmp_path):
    run = Path(shutil.copytree(folder / "a", tmp_path / "a"))
    for name in ("figures", "results"):
        shutil.rmtree(run / name)
        (run / name).write_text("in the way")
        result = msam(f"sharpness {run} --rho 0.2")
        assert result.exit_code == 2
        assert (
            f"cannot read or write {run}/{name}/sharpness-....{'png' if name == 'figures' else 'npz'}: not a"
            in result.stderr
        )
        assert "m-sharpness" not in result.stderr.splitlines()[0]


def shell(line, **environment):
    """Run a line of the shell with ``msam`` in it."""
    command = f'msam() {{ {sys.executable} {ROOT}/cli.py "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", command], env=os.environ | environment, capture_output=True, text=True)


def test_the_backend_that_notebooks_draw_with_does_not_matter(folder, tmp_path):
    line = next((folder / "a" / "results").glob("line-*.npz"))
    done = shell(f"msam plot {line} --out {tmp_path}/f.png", MPLBACKEND="foo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.png").is_file()


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_stops_early_is_no_error(option, folder):
    done = shell(f"set -o pipefail; msam sharpness {folder}/a {option} | head -0")
    assert done.stderr == ""
    assert done.returncode == 1


def test_closed_output_is_no_defect_and_does_not_mix_with_the_other(folder):
    assert shell(f"msam sharpness {folder}/a >&-").returncode == 0
    done = shell(f"msam sharpness {folder}/a --json 2>&-")
    assert "sharpness" in json.loads(done.stdout)
    done = shell(f"msam sharpness {folder}/none 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


IN_SMALL = {
    "train": "--set hidden=8 --set train_examples=60 --epochs 1",
    "sweep": "--set hidden=8 --set train_examples=60 --epochs 1 --seeds 1",
    "spectrum": "-k 1 --probes 2 --steps 3",
    "slice": "--points 3 --plane-points 2",
    "analyze": FEW,
    "compare": FEW,
    "flatness-vs-m": "--probes 2",
}


def test_the_example_of_every_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = {name: command.epilog.removeprefix("Example: msam ") for name, command in cli.main.commands.items()}
    lines = [examples["train"], f"train --perturbation none --out runs/b {IN_SMALL['train']}"]
    lines += [f"slice runs/{name} --points 3" for name in "ab"]
    for line in [*lines, *(examples[name] for name in ("sweep", *sorted(examples.keys() - {"train", "sweep"})))]:
        words = [
            part for word in line.split() for part in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        result = msam(" ".join(words), IN_SMALL.get(words[0], "--json"))
        assert result.exit_code == 0, (line, result.stderr)
