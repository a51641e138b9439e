"""Nothing is mixed up: two trainings in one folder, states and runs of other settings, runs that are no seeds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from msam import Run

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25"


def msam(line: str):
    return CliRunner().invoke(cli.main, line.split())


def sentence_of(line: str, *, status: int):
    result = msam(line)
    assert result.exit_code == status, result.output
    return result.stderr.split("Error: ")[-1].strip()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert msam(f"train {SMALL} --epochs 4 --checkpoint-every 2 --out {path}").exit_code == 0
    return path


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_second_process_does_not_train_in_the_same_run_nor_overwrite_it(tmp_path):
    out = tmp_path / "run"
    line = f"train {SMALL} --epochs 100000 --out {out}".split()
    first = subprocess.Popen([sys.executable, "-c", "import cli; cli.main()", *line], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (out / "metrics.csv").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        for way in ("--resume", "--overwrite --lr 0.5"):
            result = msam(f"train {SMALL} --epochs 100000 --out {out} {way}")
            assert result.exit_code in (1, 2)
            assert f"another process is training in {out}" in result.stderr
        assert Run.open(out).config.lr == 0.1
    finally:
        first.kill()
        first.communicate()
    assert Run.open(out).metrics()


def test_a_state_of_other_settings_is_not_gone_on_with(run):
    config = json.loads((run / "config.json").read_text())
    config["config"]["lr"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    (run / "checkpoints" / "epoch-0004.safetensors").unlink()
    assert "is of a run with other settings" in sentence_of(f"train --out {run} --resume", status=2)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:500])])
def test_final_weights_that_are_gone_or_cut_come_back_on_resume(spoil, run):
    weights = run / "checkpoints" / "epoch-0004.safetensors"
    whole = weights.read_bytes()
    spoil(weights)
    assert msam(f"train --out {run} --resume").exit_code == 0
    assert weights.read_bytes() == whole


def test_a_run_whose_state_is_gone_is_not_begun_anew(run):
    (run / "checkpoints" / "state.pt").unlink()
    (run / "checkpoints" / "epoch-0004.safetensors").unlink()
    before = (run / "metrics.csv").read_bytes()
    assert "state.pt is gone" in sentence_of(f"train --out {run} --resume", status=2)
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("text", ["epoch,lr\n1,abc\n", "epoch,lr\n1\n"])
def test_damaged_metrics_are_named(text, run):
    (run / "metrics.csv").write_text(text)
    sentence = sentence_of(f"train --out {run} --resume", status=2)
    assert f"{run}/metrics.csv is damaged" in sentence


@pytest.mark.parametrize("epoch", ["2", 1.5, -1, 99])
def test_a_state_with_an_epoch_that_makes_no_sense_is_refused(epoch, run):
    path = run / "checkpoints" / "state.pt"
    torch.save(torch.load(path, weights_only=True) | {"epoch": epoch}, path)
    (run / "checkpoints" / "epoch-0004.safetensors").unlink()
    assert "is not the training state of this run" in sentence_of(f"train --out {run} --resume", status=2)


def test_a_sweep_does_not_take_a_run_of_other_settings_for_its_own(tmp_path):
    sweep = f"sweep {SMALL} --epochs 1 --micro-batches 1,2 --seeds 1 --out {tmp_path}/s"
    assert msam(sweep).exit_code == 0
    assert msam(f"train {SMALL} --epochs 1 --lr 0.5 --out {tmp_path}/s/run-01 --overwrite").exit_code == 0
    for line in (sweep, f"analyze {tmp_path}/s"):
        assert "was trained with other settings than the sweep" in sentence_of(line, status=2)


def test_without_a_radius_there_is_one_unperturbed_run_in_a_sweep(tmp_path):
    line = f"sweep {SMALL} --epochs 1 --perturbation none,sam --rho 0 --micro-batches 1,4 --seeds 1 --out {tmp_path}/s"
    assert msam(line).exit_code == 0
    assert len(list((tmp_path / "s").glob("run-*"))) == 1


def test_two_runs_of_one_training_and_one_seed_are_not_two_seeds(run, trained, tmp_path):
    few = "--probes 2 --steps 3 --points 3 --plane-points 2 -k 1"
    sentence = sentence_of(f"compare {trained} {run} {few} --out {tmp_path}/r.html", status=2)
    assert "two of them are not two seeds" in sentence
    earlier = run / "checkpoints" / "epoch-0002.safetensors"
    result = msam(f"compare {trained} {earlier} {few} --out {tmp_path}/r.html --json")
    groups = [entry["group"] for entry in json.loads(result.stdout)["runs"]]
    assert groups == ["SAM, epoch-0004", "SAM, epoch-0002"]


def test_a_device_that_is_not_there_leaves_no_run_behind(tmp_path):
    for line in (f"train {SMALL} --out {tmp_path}/run", f"sweep {SMALL} --out {tmp_path}/sweep"):
        for device in ("warp9", "meta"):
            assert f"there is no device '{device}' here" in sentence_of(f"{line} --device {device}", status=2)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_not_overwritten_by_its_own_table(trained, tmp_path):
    assert "ending in .html, not r.csv" in sentence_of(f"compare {trained} --out {tmp_path}/r.csv", status=2)
    assert list(tmp_path.iterdir()) == []


def test_a_warning_is_one_line(tmp_path):
    small = SMALL.replace("hidden=8", "width=4")
    result = msam(f"train {small} --model cnn-bn --epochs 1 --micro-batches 2 --execution layerwise --out {tmp_path}/r")
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Warning")]
    assert line.startswith("Warning: micro-batches are not computed layer by layer, but by OneByOne: batch norm in")
