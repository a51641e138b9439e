"""The same training on one, two and three processes."""

from __future__ import annotations

import json
from pathlib import Path

import papers
import pytest
import torch
from commands import json_of, refused
from launching import launch

from msam import Run, TrainConfig, train
from msam.checkpoints import read_state, read_weights
from tests.msam.distributed_program import MODELS, trained

PROGRAM = Path(__file__).with_name("distributed_program.py")
TRAINING = Path(__file__).with_name("distributed_training.py")
ROOT = PROGRAM.parents[2]


def launched(number, *arguments, program=PROGRAM, folder=None):
    """A program that has run under torchrun, the training of this room when none is named."""
    return launch(number, program, *arguments, folder=folder)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_number_of_processes_comes_to_the_same_weights_statistics_and_reports(number, tmp_path):
    ended = launched(number, tmp_path)
    assert ended.returncode == 0, ended.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(number)]
    for name in MODELS:
        alone = trained(name, None)
        for rank in ranks:
            assert rank[name].keys() == alone.keys()
            for key, value in alone.items():
                if name == "overflow" and key == "skipped":
                    assert value.tolist() == [1, 4.0]
                assert torch.allclose(rank[name][key], value, rtol=1e-10, atol=1e-13, equal_nan=True), (name, key)
                torch.testing.assert_close(rank[name][key], ranks[0][name][key], rtol=0, atol=0, equal_nan=True)


def config_of(**settings):
    task = {"model": "cnn-bn", "width": 4, "train_examples": 110, "augment": "crop=1+flip+cutout=2+mixup=0.4"}
    return TrainConfig(settings=task, epochs=3, batch_size=25, num_microbatches=5, lr=0.05, **settings)


def tensors_of(run):
    return {**read_weights(run.checkpoint), "metrics": torch.tensor([[*row.values()][:-1] for row in run.metrics()])}


@pytest.mark.parametrize(
    ("rank", "resumed_on"), [(1, 1), (0, 3)], ids=["a peer, resumed on one", "the first, on three"]
)
def test_a_process_killed_in_the_middle_is_resumed_on_another_number_of_processes(rank, resumed_on, tmp_path):
    config = config_of()
    run, whole = Run.create(tmp_path / "killed", config), Run.create(tmp_path / "whole", config)
    ended = launched(2, run.path, rank, 8, json.dumps(config.to_dict()), program=TRAINING)  # in the second epoch
    assert ended.returncode != 0
    if rank == 1:
        assert "rank 0: ProcessLostError: another process is gone" in ended.stdout
    assert read_state(run.state_path)["epoch"] == 1
    assert [path.name for path in run.checkpoints()] == ["epoch-0001.safetensors"]
    if resumed_on == 1:
        train(config.load_task(), config, run)
    else:
        ended = launched(resumed_on, run.path, -1, 0, json.dumps(config.to_dict()), program=TRAINING)
        assert ended.returncode == 0, ended.stderr
    train(config.load_task(), config, whole)
    ours, theirs = tensors_of(run), tensors_of(whole)
    for name, value in theirs.items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=2e-4, atol=2e-5), name


def test_begun_on_one_process_and_gone_on_with_on_three_and_on_two(tmp_path):
    config = config_of()
    run, whole = Run.create(tmp_path / "moved", config), Run.create(tmp_path / "whole", config)

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config.load_task(), config, run, progress=stop)
    assert launched(3, run.path, 0, 8, json.dumps(config.to_dict()), program=TRAINING).returncode != 0  # in the third
    assert read_state(run.state_path)["epoch"] == 2
    ended = launched(2, run.path, -1, 0, json.dumps(config.to_dict()), program=TRAINING)
    assert ended.returncode == 0, ended.stderr
    train(config.load_task(), config, whole)
    ours, theirs = tensors_of(run), tensors_of(whole)
    for name, value in theirs.items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=2e-4, atol=2e-5), name


NO_THREADS_LEFT = """
import pathlib
threads = [(thread / "comm").read_text() for thread in pathlib.Path("/proc/self/task").glob("*")]
assert not any("gloo" in thread for thread in threads), threads
"""


def test_the_recipe_for_several_processes_comes_to_the_weights_of_one(cook, tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text(papers.recipes()["Several processes"] + NO_THREADS_LEFT, encoding="utf-8")
    ended = launched(2, program=script, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    several = torch.load(tmp_path / "state.pt", weights_only=True)
    alone = cook("Several processes")
    assert several["optimizer"]["msam"]["counted"]["steps"] == alone["optimizer"].steps == 8
    for name, value in alone["model"].state_dict().items():
        torch.testing.assert_close(several["model"][name], value, rtol=1e-4, atol=1e-6)


def test_torchrun_trains_from_the_command_line_and_one_process_speaks_for_all(tmp_path, monkeypatch):
    words = ["train", "--set", "train_examples=60", "--set", "hidden=8", "--epochs", 2, "--micro-batches", 3, "--json"]
    run = tmp_path / "run"
    ended = launched(2, *words, "--out", run, program=ROOT / "cli.py")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["epoch"] == 2
    assert ended.stderr.count("mSAM, 3 micro-batches, seed 0") == 1
    again = launched(2, *words, "--out", run, program=ROOT / "cli.py")
    assert again.returncode != 0
    assert "holds a run already; continue it with --resume" in again.stderr
    assert "defect" not in again.stderr
    assert Run.open(run).is_complete
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "a sweep runs on one process" in refused(f"sweep --out {tmp_path}/sweep", status=2)


def test_torchrun_measures_from_the_command_line_as_one_process_does(tmp_path):
    config = TrainConfig(settings={"train_examples": 210, "hidden": 8}, epochs=2)
    for name in ("shared", "alone"):
        run = Run.create(tmp_path / name, config)
        train(config.load_task(), config, run)
    words = ["spectrum", "-k", 2, "--probes", 12, "--steps", 5, "--json"]
    ended = launched(3, *words, tmp_path / "shared", program=ROOT / "cli.py")
    assert ended.returncode == 0, ended.stderr
    shared = json.loads(ended.stdout)
    alone = json_of(*map(str, words[:-1]), str(tmp_path / "alone"))
    for question, key in (("eigenvalues", "eigenvalues"), ("trace", "trace"), ("density", "mean_eigenvalue")):
        assert shared[question][key] == pytest.approx(alone[question][key], rel=1e-4)
        assert Path(shared[question]["result"]).is_file()
    kept = {path: path.read_bytes() for path in (tmp_path / "shared" / "results").glob("*.npz")}
    again = launched(2, *words, tmp_path / "shared", program=ROOT / "cli.py")
    assert json.loads(again.stdout)["trace"] == shared["trace"]
    assert kept == {path: path.read_bytes() for path in kept}
    budget = launched(2, *words, "--budget", "60s", tmp_path / "shared", program=ROOT / "cli.py")
    assert json.loads(budget.stdout)["trace"] == shared["trace"]  # all of it was known
