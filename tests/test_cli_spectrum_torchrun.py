"""The ways of msam spectrum under torchrun: the work is shared, and the first process speaks for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import json_of, msam
from launching import ROOT, launch

from landscape import Certificate, Result
from msam import Run

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 60 --epochs 3 --perturbation none --momentum 0"
PROGRAM = Path(__file__).with_name("analyses") / "distributed_course.py"


@pytest.fixture
def run(tmp_path):
    """A run that kept its checkpoints."""
    result = msam(f"train {SMALL} --schedule constant --checkpoint-every 1 --out {tmp_path}/run")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "run"


def shared(run, *words, number=2, status=0):
    """What the processes print together: one object; and what they say."""
    ended = launch(number, ROOT / "cli.py", "spectrum", run, *words, "--json")
    assert (ended.returncode != 0) == status, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def test_a_certificate_is_that_of_shared_work_and_does_not_ask_who_cannot_share(run):
    content, _ = shared(run, "-k", 2, "--probes", 6, "--steps", 4, "--certify")
    alone = json_of(f"spectrum {run} -k 2 --probes 6 --steps 4 --seed 0")
    for question in ("eigenvalues", "trace"):
        assert content[question][question] == alone[question][question]  # read back
        certificate = Certificate.load(content[question]["certificate"]["result"])
        assert certificate.passed
        checks = {check["name"]: check for check in content[question]["certificate"]["checks"]}
        theirs = next(check for name, check in checks.items() if name.startswith("PyHessian"))
        assert theirs["verdict"] == "not judged"
        assert "not asked: it is run on one process only, and several share this work" in theirs["remark"]
        assert [check["verdict"] for check in checks.values()].count("passed") == len(checks) - 1


@pytest.mark.parametrize("number", [2, 3])
def test_all_checkpoints_have_the_eigenvalues_that_one_process_finds(number, run):
    content, _ = shared(run, "--all-checkpoints", "--budget", "600s", number=number)
    kept = {path: path.read_bytes() for path in (run / "results").iterdir()}
    assert len(list((run / "results").glob("largest-*.npz"))) == 4
    for path in kept:
        if path.stem.startswith("largest"):
            path.unlink()
    alone = json_of(f"spectrum {run} --all-checkpoints")
    for one, several in zip(alone["checkpoints"], content["checkpoints"], strict=True):
        assert several["epoch"] == one["epoch"]
        assert several["largest_eigenvalue"] == pytest.approx(one["largest_eigenvalue"], rel=1e-4)
        assert several["num_products"] == one["num_products"]
    assert Result.load(content["result"]).epochs.tolist() == [0, 1, 2, 3]
    assert Path(content["table"]).is_file()
    assert Path(content["figure"]).is_file()


def test_a_damaged_checkpoint_is_named_once_and_the_others_are_there(run):
    damaged = Run.open(run).checkpoints()[1]
    damaged.write_bytes(damaged.read_bytes()[:300])
    content, said = shared(run, "--all-checkpoints", status=1)
    assert [entry["epoch"] for entry in content["checkpoints"]] == [0, 2, 3]
    assert said.count(f"Error: not every checkpoint could be measured: {damaged} is not a whole safetensors file") == 1


def test_a_checkpoint_that_one_process_cannot_read_is_left_out_by_all_and_time_is_that_of_the_first(run, tmp_path):
    ended = launch(2, PROGRAM, run, tmp_path)
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first[:2] == second[:2]
    assert first[0] == [0, 2, 3]
    assert first[2] == ["another process has failed; the reason is what that one says"]
    assert second[2] == ["the disk is away"]


def test_a_dry_run_is_that_of_the_processes_and_writes_nothing(run):
    before = sorted(run.rglob("*"))
    content, _ = shared(run, "--dry-run")
    assert content["answered"] == []
    assert {"eigenvalues", "trace", "density"} <= {question["question"] for question in content["questions"]}
    assert sorted(run.rglob("*")) == before
