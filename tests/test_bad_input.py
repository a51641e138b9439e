"""Bad input at the command line: one sentence with a way out and a status, nothing lost and nothing half-written."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25 --epochs 2"
ROOT = Path(__file__).resolve().parent.parent


def refused(line: str, *, status: int):
    """Run a command that must fail with a sentence; returns the sentence."""
    result = CliRunner().invoke(cli.main, line.split())
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    sentence = result.stderr.split("Error: ")[-1].strip()
    assert sentence.count("\n") == 0, sentence
    return sentence


def contents(folder: Path):
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert CliRunner().invoke(cli.main, f"train {SMALL} --out {path}".split()).exit_code == 0
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a trained run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--task digit", "did you mean 'digits'?"),
        ("--model resnet", "there is no model 'resnet'"),
        ("--set hiden=3", "did you mean 'hidden'?"),
        ("--set hidden", "--set takes NAME=VALUE"),
        ("--set hidden=many", "hidden must be of type int"),
        ("--set label_noise=2", "label_noise must be between 0 and 1"),
        ("--perturbation samm", "there is no perturbation 'samm'"),
        ("--optimizer adam", "there is no optimizer 'adam'"),
        ("--micro-batches 0", "num_microbatches must be at least 1; got 0"),
        ("--micro-batches -3", "num_microbatches must be at least 1; got -3"),
        ("--micro-batches 101", "a batch of 100 examples cannot be split into 101 micro-batches"),
        ("--batch-size 300 --micro-batches 200", "the last batch of an epoch would have 100 examples"),
        ("--rho -0.1", "rho must be a finite number, zero or more; got -0.1"),
        ("--rho nan", "rho must be a finite number"),
        ("--rho inf", "rho must be a finite number"),
        ("--rho big", "'big' is not a valid float"),
        ("--lr -1", "lr must be a finite number"),
        ("--epochs 0", "epochs must be at least 1"),
        ("--seed -1", "seed must be an integer from 0 on"),
    ],
)
def test_settings_that_make_no_sense_are_wrong_usage_and_write_nothing(options, words, tmp_path):
    assert words in refused(f"train {options} --out {tmp_path}/run", status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--micro-batches 1,two", "'--micro-batches': it takes a list such as 1,2,4; got '1,two'"),
        ("--micro-batches 1,0", "num_microbatches must be at least 1"),
        ("--rho 0.1,-1", "rho must be a finite number"),
        ("--perturbation sam,adam", "there is no perturbation 'adam'"),
        ("--seeds 0", "0 is not in the range"),
    ],
)
def test_a_sweep_with_settings_that_make_no_sense_writes_nothing(options, words, tmp_path):
    assert words in refused(f"sweep {options} --out {tmp_path}/sweep", status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["spectrum", "sharpness", "slice", "analyze", "compare", "flatness-vs-m"])
def test_an_unknown_run_is_named(command, tmp_path):
    assert f"{tmp_path}/none" in refused(f"{command} {tmp_path}/none", status=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("spectrum RUN -k 0", "eigenvalues must be at least 1"),
        ("spectrum RUN --probes 1", "trace_probes must be at least 2"),
        ("spectrum RUN --estimator hutch", "'per-example' or 'exact-gauss-newton'; got 'hutch'"),
        ("spectrum RUN --tol 0", "tol must be a positive"),
        ("spectrum RUN --split dev", "split must be 'train', 'validation' or 'test'"),
        ("sharpness RUN --rho -1", "rho must be a positive, finite number; got -1"),
        ("sharpness RUN --rho nan", "rho must be a positive, finite number"),
        ("sharpness RUN --microbatch-size 0", "microbatch_size must be at least 1"),
        ("slice RUN --points 1", "line_points must be at least 2"),
        ("slice RUN --reach inf", "reach must be a positive, finite number"),
        ("slice RUN --dims 3", "3 is not in the range 1<=x<=2"),
    ],
)
def test_measurements_that_make_no_sense_are_wrong_usage(options, words, trained):
    assert words in refused(options.replace("RUN", str(trained)), status=2)


def test_more_eigenvalues_than_weights_are_refused(trained):
    for dry in ("", " --dry-run"):
        assert "k must be between 1 and 610" in refused(f"spectrum {trained} -k 5000{dry}", status=2)


@pytest.mark.parametrize("command", ["spectrum", "sharpness", "slice", "analyze", "compare", "train", "sweep"])
def test_a_device_that_is_not_there_is_wrong_usage_whatever_the_command(command, trained, tmp_path):
    words = f"{SMALL} --out {tmp_path}/new" if command in ("train", "sweep") else trained
    assert "there is no device 'warp9' here" in refused(f"{command} {words} --device warp9", status=2)
    assert not (tmp_path / "new").exists()


def test_a_run_without_checkpoints_says_so(run):
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint; train it first" in refused(f"spectrum {run}", status=2)


def test_a_truncated_checkpoint_is_named(run):
    path = run / "checkpoints" / "epoch-0002.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    sentence = refused(f"spectrum {run}", status=2)
    assert str(path) in sentence
    assert "is not a whole safetensors file" in sentence


def test_a_foreign_checkpoint_is_named(run):
    path = run / "checkpoints" / "epoch-0002.safetensors"
    path.write_text("these are not weights")
    assert f"{path} is not a whole safetensors file" in refused(f"sharpness {run}", status=2)


class Code:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors"])
def test_a_pickle_with_code_is_refused_and_does_not_run(name, run, tmp_path):
    path = run / "checkpoints" / name
    with path.open("wb") as stream:
        if name.endswith(".pt"):
            torch.save({"weight": Code(tmp_path / "mark")}, stream)
        else:
            pickle.dump(Code(tmp_path / "mark"), stream)
    sentence = refused(f"spectrum {path}", status=2)
    assert str(path) in sentence
    assert "refused" in sentence if name.endswith(".pt") else "not a whole safetensors file" in sentence
    assert not (tmp_path / "mark").exists()


def test_a_training_state_with_code_in_it_is_refused_on_resume(run, tmp_path):
    (run / "checkpoints" / "epoch-0002.safetensors").unlink()
    torch.save({"epoch": 1, "model": Code(tmp_path / "mark")}, run / "checkpoints" / "state.pt")
    before = contents(run)
    assert "refused" in refused(f"train --out {run} --resume", status=2)
    assert not (tmp_path / "mark").exists()
    assert contents(run) == before


def test_a_checkpoint_of_another_architecture_is_named_with_what_differs(run, tmp_path):
    other = tmp_path / "other"
    small = SMALL.replace("hidden=8", "width=4")
    CliRunner().invoke(cli.main, f"train {small} --model cnn-gn --out {other}".split())
    shutil.copy(other / "checkpoints" / "epoch-0002.safetensors", run / "checkpoints" / "epoch-0002.safetensors")
    sentence = refused(f"spectrum {run}", status=2)
    assert "is of another architecture than the model" in sentence
    assert "3.weight" in sentence


def test_runs_on_other_data_are_not_put_side_by_side(trained, tmp_path):
    CliRunner().invoke(cli.main, f"train {SMALL} --set label_noise=0.5 --out {tmp_path}/noisy".split())
    sentence = refused(f"compare {trained} {tmp_path}/noisy --out {tmp_path}/r.html", status=2)
    assert "cannot be put side by side; they differ in data.training set" in sentence
    assert not (tmp_path / "r.html").exists()


def test_models_of_another_architecture_are_not_put_side_by_side(tmp_path):
    for model in ("cnn-bn", "cnn-gn"):  # of the same number of weights
        CliRunner().invoke(cli.main, f"train {SMALL} --set width=4 --model {model} --out {tmp_path}/{model}".split())
    sentence = refused(f"compare {tmp_path}/cnn-bn {tmp_path}/cnn-gn --out {tmp_path}/r.html", status=2)
    assert "they differ in objective.architecture" in sentence
    assert not (tmp_path / "r.html").exists()


def test_a_run_named_twice_is_not_two_runs(trained, tmp_path):
    sentence = refused(
        f"compare {trained} {trained}/checkpoints/epoch-0002.safetensors --out {tmp_path}/r.html", status=2
    )
    assert "is named twice; name each run once" in sentence


def test_an_existing_run_is_refused_without_resume_or_overwrite(run):
    before = contents(run)
    assert "continue it with --resume, or --overwrite it" in refused(f"train {SMALL} --out {run}", status=2)
    assert contents(run) == before


def test_overwrite_with_wrong_settings_keeps_the_run(run):
    before = contents(run)
    refused(f"train --rho -1 --out {run} --overwrite", status=2)
    refused(f"train --batch-size 999 --micro-batches 900 --set train_examples=60 --out {run} --overwrite", status=2)
    assert contents(run) == before


def test_a_folder_that_is_not_a_run_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "exists and is not a run" in refused(f"train {SMALL} --out {tmp_path} --overwrite", status=2)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_loss_that_becomes_nan_stops_with_the_place_and_keeps_the_last_good_checkpoint(tmp_path):
    sentence = refused(f"train {SMALL} --lr 1e30 --rho 0 --out {tmp_path}/run", status=1)
    assert "epoch 1, step" in sentence
    assert "no epoch had been finished" in sentence
    sentence = refused(f"train {SMALL} --lr 1e30 --rho 0 --checkpoint-every 1 --out {tmp_path}/kept", status=1)
    assert "the last good checkpoint is" in sentence
    assert "epoch-0000.safetensors" in sentence
    assert CliRunner().invoke(cli.main, f"sharpness {tmp_path}/kept".split()).exit_code == 0


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    sentence = refused(f"train {SMALL} --out {tmp_path}/file/run", status=2)
    assert "cannot read or write" in sentence
    assert f"{tmp_path}/file/run" in sentence


def test_a_full_disk_is_told_and_leaves_no_half_written_file(run, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(run)
    monkeypatch.setattr(os, "fsync", full)
    assert f"cannot read or write {run}/results/eigenvalues" in refused(f"spectrum {run}", status=1)
    assert "no space left on device" in refused(f"train {SMALL} --out {tmp_path}/new", status=1)
    assert contents(run) == before
    assert contents(tmp_path / "new") == {}


def test_results_that_are_not_results_are_named(tmp_path):
    (tmp_path / "x.npz").write_text("nothing")
    assert "is not a whole result file" in refused(f"plot {tmp_path}/x.npz", status=2)
    assert "there is no result at" in refused(f"plot {tmp_path}/y.npz", status=2)


def test_an_unknown_figure_format_is_refused(run, tmp_path):
    CliRunner().invoke(cli.main, f"sharpness {run}".split())
    (result,) = (run / "results").glob("sharpness-*.npz")
    assert "cannot write a figure as 'xyz'; choose one of" in refused(f"plot {result} --out {tmp_path}/f.xyz", status=2)


def test_ctrl_c_is_a_sentence_and_the_run_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    # Long epochs, so that it is interrupted between two writes; interrupts within a write have a test of their own.
    line = f"train --set hidden=8 --batch-size 1 --epochs 1000 --out {out}"
    # What is started in the background of a script ignores Ctrl-C, and so does all that it starts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import cli; cli.main()"
    process = subprocess.Popen([sys.executable, "-c", code, *line.split()], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "checkpoints" / "state.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: interrupted; what was finished is kept" in errors
    assert "Traceback" not in errors
    assert not list(out.rglob(".*"))
    state = torch.load(out / "checkpoints" / "state.pt", weights_only=True)
    assert state["epoch"] >= 1
