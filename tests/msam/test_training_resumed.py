"""A run that was stopped at any moment and resumed ends with the very same weights as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import msam.trainer
from msam import Run, TrainConfig, train
from msam.checkpoints import read_state, read_weights, save_state
from msam.data import Examples
from msam.tasks import Task


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_runs(run, other):
    assert same(read_weights(run.checkpoint), read_weights(other.checkpoint))
    assert [path.name for path in run.checkpoints()] == [path.name for path in other.checkpoints()]
    assert run.is_complete
    for row, expected in zip(run.metrics(), other.metrics(), strict=True):
        assert row.keys() == expected.keys()
        assert all(row[name] == expected[name] for name in row if name != "seconds")
    state, expected = read_state(run.state_path), read_state(other.state_path)
    assert same(state["model"], expected["model"])
    assert torch.equal(state["random"]["cpu"], expected["random"]["cpu"])


@pytest.fixture
def noisy_task(make_net, toy_task):
    """With dropout and batch norm, so that the random state and the buffers matter."""
    build = lambda: make_net(torch.float32, nn.BatchNorm1d(5), nn.Dropout(0.5))  # noqa: E731
    return Task("noisy", build, toy_task.loss, toy_task.train, toy_task.test, "")


@pytest.fixture
def config(toy_config):
    return toy_config(epochs=5, num_microbatches=2, checkpoint_every=2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 5])
def test_interrupted_between_two_epochs_by_the_keyboard(stop, optimizer, noisy_task, toy_config, tmp_path):
    config = toy_config(epochs=5, num_microbatches=2, checkpoint_every=2, optimizer=optimizer, lr=0.05)
    whole = train(noisy_task, config, Run.create(tmp_path / "whole", config))
    run = Run.create(tmp_path / "stopped", config)

    def interrupt(done, total):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(noisy_task, config, run, progress=interrupt)
    torch.rand(3)
    train(noisy_task, config, Run.open(run.path))
    assert_same_runs(run, whole)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 18))
def test_interrupted_as_any_file_is_put_in_its_place(write, done, noisy_task, config, tmp_path, monkeypatch):
    whole = train(noisy_task, config, Run.create(tmp_path / "whole", config))
    run, replaced, replace = Run.create(tmp_path / "stopped", config), [], Path.replace

    def interrupted(path, target):
        replaced.append(None)
        if len(replaced) != write or done:
            replace(path, target)
        if len(replaced) == write:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(noisy_task, config, run)
    assert not list(run.path.rglob(".*"))
    train(noisy_task, config, run)
    assert_same_runs(run, whole)


def test_interrupted_before_the_weights_of_the_epoch_before_are_discarded(
    noisy_task, toy_config, tmp_path, monkeypatch
):
    config = toy_config(num_microbatches=2)
    whole = train(noisy_task, config, Run.create(tmp_path / "whole", config))
    run, unlink = Run.create(tmp_path / "stopped", config), Path.unlink

    def interrupted(path, **settings):
        if path == run.weights_path(2):
            raise KeyboardInterrupt
        unlink(path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(noisy_task, config, run)
    assert run.is_complete
    train(noisy_task, config, run)
    assert_same_runs(run, whole)


def test_the_state_never_names_an_epoch_whose_weights_and_metrics_are_not_there(
    noisy_task, config, tmp_path, monkeypatch
):
    run = Run.create(tmp_path / "run", config)

    def checked(state, path):
        assert same(read_weights(run.weights_path(state["epoch"])), state["model"])
        assert len(run.metrics()) == state["epoch"]
        save_state(state, path)

    monkeypatch.setattr(msam.trainer, "save_state", checked)
    train(noisy_task, config, run)
    assert read_state(run.state_path)["epoch"] == 5


def test_a_finished_run_is_left_as_it_is(noisy_task, config, tmp_path):
    run = train(noisy_task, config, Run.create(tmp_path / "run", config))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    train(noisy_task, config, run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is not a whole torch file"),
        (lambda path: path.write_text("text"), "is not a whole torch file"),
        (lambda path: save_state({"epoch": 1}, path), "is not the training state of this run"),
        (lambda path: save_state({"epoch": 1, "model": 3}, path), "is not the training state of this run"),
        (lambda path: save_state(read_state(path) | {"random": {}}, path), "is not the training state of this run"),
        (lambda path: save_state(read_state(path) | {"model": {}}, path), "is of another architecture"),
        (lambda path: save_state(read_state(path) | {"optimizer": {}}, path), "is not the training state of this run"),
    ],
    ids=["truncated", "text", "half", "no model", "no random state", "empty model", "no optimizer"],
)
def test_a_damaged_state_is_refused_by_name_and_the_checkpoints_stay(spoil, sentence, noisy_task, config, tmp_path):
    run = train(noisy_task, config, Run.create(tmp_path / "run", config))
    weights, state = read_weights(run.checkpoint), torch.get_rng_state()
    spoil(run.state_path)
    with pytest.raises(ValueError, match=rf"state\.pt {sentence}"):
        train(noisy_task, config, run)
    assert same(read_weights(run.checkpoint), weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_goes_on_only_with_data_that_can_be_split(noisy_task, config, tmp_path):
    few = Examples(noisy_task.train.inputs[:9], noisy_task.train.targets[:9])  # batches of 8 and of 1
    task = Task("few", noisy_task.build, noisy_task.loss, few, noisy_task.test, "")
    with pytest.raises(ValueError, match="a batch of 1 examples cannot be split into 2 micro-batches"):
        train(task, config, Run.create(tmp_path / "run", config))


KILLED = """
    import json, os, signal, sys
    import torch
    import msam.trainer
    from msam import Run, TrainConfig, train

    torch.set_num_threads(1)
    config = TrainConfig.from_dict(json.loads(sys.argv[2]))
    task = config.load_task()
    calls = {"step": 0, "save_state": 0}

    def killed(name, function, at):
        def call(*args, **kwargs):
            calls[name] += 1
            if calls[name] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call

    if sys.argv[3] == "step":
        msam.optimizer.mSAM.step = killed("step", msam.optimizer.mSAM.step, int(sys.argv[4]))
    else:
        msam.trainer.save_state = killed("save_state", msam.trainer.save_state, int(sys.argv[4]))
    train(task, config, Run.create(sys.argv[1], config))
"""


@pytest.mark.parametrize(
    ("settings", "optimizer", "place", "at", "reached"),
    [
        ({"model": "mlp", "hidden": 8}, "sgd", "step", "12", 2),
        ({"model": "cnn-bn", "width": 4}, "sgd", "step", "15", 2),
        ({"model": "cnn-bn", "width": 4}, "adamw", "save_state", "3", 2),
    ],
    ids=["mlp in an epoch", "cnn-bn in an epoch", "cnn-bn between weights and state"],
)
def test_killed_in_the_middle(settings, optimizer, place, at, reached, tmp_path):
    config = TrainConfig(
        settings=settings | {"train_examples": 110},
        epochs=4,
        batch_size=25,
        num_microbatches=3,
        optimizer=optimizer,
        lr=0.05,
    )
    arguments = [str(tmp_path / "killed"), json.dumps(config.to_dict()), place, at]
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    killed = Run.open(tmp_path / "killed")
    assert read_state(killed.state_path)["epoch"] == reached
    assert not killed.is_complete
    train(config.load_task(), config, killed)
    whole = train(config.load_task(), config, Run.create(tmp_path / "whole", config))
    assert_same_runs(killed, whole)


def test_a_run_whose_metrics_are_gone_is_not_gone_on_with(noisy_task, config, tmp_path):
    run = train(noisy_task, config, Run.create(tmp_path / "run", config))
    (run.path / "metrics.csv").unlink()
    with pytest.raises(ValueError, match=r"metrics.csv has 0 rows for 5 finished epochs; put the file back"):
        train(noisy_task, config, run)


def test_epochs_stay_whole_numbers_in_the_metrics_of_a_resumed_run(noisy_task, config, tmp_path):
    run = Run.create(tmp_path / "run", config)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(noisy_task, config, run, progress=interrupt)
    train(noisy_task, config, run)
    lines = (run.path / "metrics.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3", "4", "5"]
