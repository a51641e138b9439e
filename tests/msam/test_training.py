"""Training writes a run that says what happened, and says so when it went wrong."""

from __future__ import annotations

import dataclasses
import errno
import math
import os

import pytest
import torch
from torch import nn

from msam import Run, TrainConfig, TrainingDivergedError, evaluate, train
from msam.checkpoints import read_state, read_weights


@pytest.fixture
def trained(toy_task, toy_config, tmp_path):
    """Trains the toy task into a new run with some settings changed."""

    def run_with(name="run", *, task=toy_task, **changes):
        config = toy_config(**changes)
        return train(task, config, Run.create(tmp_path / name, config))

    return run_with


def epochs_kept(run):
    return [int(path.stem.removeprefix("epoch-")) for path in run.checkpoints()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_metrics_have_one_row_of_finite_numbers_per_epoch(trained):
    run = trained(epochs=4)
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert {"lr", "train_loss", "test_loss", "test_accuracy", "seconds"} < rows[0].keys()
    assert run.is_complete


def test_the_last_checkpoint_is_the_model_that_the_last_row_speaks_of(trained, toy_task):
    run = trained()
    found = evaluate(run.load_model(toy_task), toy_task.loss, toy_task.test)
    assert run.metrics()[-1]["test_loss"] == found.loss
    assert run.metrics()[-1]["test_accuracy"] == found.accuracy


def test_the_training_loss_is_the_mean_over_examples_of_the_ragged_batches(trained, toy_task):
    run = trained(epochs=1, lr=0.0, num_microbatches=3)
    found = evaluate(toy_task.model(seed=0), toy_task.loss, toy_task.train)
    assert run.metrics()[0]["train_loss"] == pytest.approx(found.loss, rel=1e-6)  # float32


def test_it_takes_the_steps_that_plain_torch_takes(trained, toy_task):
    """Without a perturbation: SGD with momentum on the shuffled batches, under the cosine."""
    from msam.data import shuffled

    run = trained(perturbation="none", num_microbatches=1, epochs=2, lr=0.2)
    model = toy_task.model(seed=0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(8):
        epoch, start = divmod(step, 4)
        chosen = shuffled(30, seed=0, epoch=epoch)[8 * start : 8 * start + 8]
        sgd.param_groups[0]["lr"] = 0.2 * 0.5 * (1 + math.cos(math.pi * step / 8))
        sgd.zero_grad()
        toy_task.loss(model(toy_task.train.inputs[chosen]), toy_task.train.targets[chosen]).backward()
        sgd.step()
    assert same(read_weights(run.checkpoint), model.state_dict())


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.1] * 3), ("cosine", [0.1, 0.075, 0.025])])
def test_the_learning_rate_follows_the_schedule(schedule, rates, trained):
    assert [row["lr"] for row in trained(schedule=schedule).metrics()] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize(("every", "kept"), [(0, [5]), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (9, [0, 5])])
def test_the_checkpoints_asked_for_are_kept_and_no_others(every, kept, trained):
    assert epochs_kept(trained(epochs=5, checkpoint_every=every)) == kept


def test_the_first_checkpoint_is_the_untrained_model(trained, toy_task):
    run = trained(checkpoint_every=1)
    assert same(read_weights(run.weights_path(0)), toy_task.model(seed=0).state_dict())


def test_the_same_settings_give_the_same_weights_and_another_seed_gives_others(trained):
    first, again, other = trained("a"), trained("b"), trained("c", seed=1)
    assert same(read_weights(first.checkpoint), read_weights(again.checkpoint))
    assert not same(read_weights(first.checkpoint), read_weights(other.checkpoint))


@pytest.mark.parametrize(
    "change",
    [
        *({"rho": 0.2}, {"num_microbatches": 1}, {"perturbation": "asam"}, {"optimizer": "adamw"}, {"lr": 0.2}),
        *({"momentum": 0.5}, {"weight_decay": 0.1}, {"schedule": "constant"}, {"batch_size": 10}, {"epochs": 2}),
        *({"rho_schedule": "rising"}, {"ball": "linf"}, {"ascent_steps": 2}, {"perturbed": "0.*"}),
        *({"precision": "bf16"}, {"max_grad_norm": 0.01}),
    ],
    ids=str,
)
def test_every_setting_is_used(change, trained):
    assert not same(read_weights(trained("a").checkpoint), read_weights(trained("b", **change).checkpoint))


def test_a_model_that_comes_in_evaluation_mode_is_trained_in_training_mode(make_net, toy_task, toy_config, tmp_path):
    """As pretrained ones come: its batch norm counts the micro-batches."""
    task = dataclasses.replace(toy_task, build=lambda: make_net(torch.float32, nn.BatchNorm1d(5)).eval())
    config = toy_config(epochs=2, num_microbatches=2)
    weights = read_weights(train(task, config, Run.create(tmp_path / "run", config)).checkpoint)
    assert weights["1.num_batches_tracked"] == 2 * 4 * 2


def test_the_random_state_of_the_caller_is_left_as_it_was(trained):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_told_of_every_epoch(toy_task, toy_config, tmp_path):
    told, config = [], toy_config()
    run = Run.create(tmp_path / "run", config)
    train(toy_task, config, run, progress=lambda done, total: told.append((done, total)))
    train(toy_task, config, run, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 3)]


def nan_at(task, *, step, microbatches):
    """The task, its loss NaN in the first pass of a step, counted from one over all of training."""
    calls = []

    def loss(outputs, targets):
        if outputs.requires_grad:
            calls.append(None)
        value = task.loss(outputs, targets)
        return value * float("nan") if len(calls) == 2 * microbatches * (step - 1) + 1 else value

    return dataclasses.replace(task, loss=loss)


def test_a_loss_that_becomes_nan_is_an_error_that_names_epoch_step_and_the_last_good_checkpoint(
    trained, toy_task, tmp_path
):
    good = trained("good", epochs=2, schedule="constant")
    torch.manual_seed(123)
    state = torch.get_rng_state()
    with pytest.raises(TrainingDivergedError) as caught:
        trained("bad", epochs=5, schedule="constant", task=nan_at(toy_task, step=10, microbatches=3))
    bad = Run.open(tmp_path / "bad")
    assert "the training loss became nan in epoch 3, step 2" in str(caught.value)
    assert f"the last good checkpoint is {bad.weights_path(2)}" in str(caught.value)
    assert "Lower the learning rate (now 0.1) or rho (now 0.05)" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), state)
    assert epochs_kept(bad) == [2]
    kept, saved = read_weights(bad.checkpoint), read_state(bad.state_path)
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert same(kept, read_weights(good.checkpoint))
    assert saved["epoch"] == 2
    assert same(saved["model"], kept)
    assert len(bad.metrics()) == 2
    assert not bad.is_complete


def test_a_diverged_run_goes_on_from_its_last_good_checkpoint(trained, toy_task, tmp_path):
    whole = trained("whole", epochs=5)
    with pytest.raises(TrainingDivergedError):
        trained("bad", epochs=5, task=nan_at(toy_task, step=10, microbatches=3))
    bad = Run.open(tmp_path / "bad")
    train(toy_task, bad.config, bad)
    assert same(read_weights(bad.checkpoint), read_weights(whole.checkpoint))


def test_a_learning_rate_out_of_reason_diverges_in_the_first_epoch_with_no_checkpoint(tmp_path):
    config = TrainConfig(settings={"train_examples": 50, "hidden": 8}, lr=1e6, batch_size=4, weight_decay=0.1)
    with pytest.raises(TrainingDivergedError, match=r"in epoch 1, step \d+; no epoch had been finished.*now 1000000.0"):
        train(config.load_task(), config, Run.create(tmp_path / "run", config))
    assert Run.open(tmp_path / "run").checkpoints() == []


@pytest.mark.parametrize(("part", "name"), [("train", "training"), ("test", "test")])
def test_data_that_are_not_finite_are_named_where_the_loss_is_not(part, name, trained, toy_task):
    examples = getattr(toy_task, part)
    inputs = examples.inputs.clone()
    inputs[[3, 5], 1] = math.nan
    task = dataclasses.replace(toy_task, **{part: dataclasses.replace(examples, inputs=inputs)})
    with pytest.raises(ValueError, match=rf"became nan in epoch 1.*; the {name} data hold .* first in example 3: mend"):
        trained(task=task)


def test_weights_that_overflow_in_the_last_step_of_an_epoch_are_not_saved(toy_task, trained, tmp_path):
    def loss(outputs, targets):
        value = toy_task.loss(outputs, targets)
        return value + (outputs * 1e38).sum() * 1e30 * 0.0 if not outputs.requires_grad else value * 1e38

    with pytest.raises(TrainingDivergedError, match="a weight is no longer finite in epoch 1, step 1; no epoch"):
        trained("run", task=dataclasses.replace(toy_task, loss=loss), batch_size=30, lr=1e3)
    assert Run.open(tmp_path / "run").checkpoints() == []


def test_a_parameter_without_elements_is_no_matter(toy_task, trained):
    def build():
        model = toy_task.build()
        model.none = nn.Parameter(torch.zeros(0))
        return model

    assert trained(task=dataclasses.replace(toy_task, build=build), epochs=1).is_complete


def test_an_epoch_whose_test_loss_is_nan_is_not_saved(toy_task, trained, tmp_path):
    def loss(outputs, targets):
        return toy_task.loss(outputs, targets) * (1 if outputs.requires_grad else float("nan"))

    with pytest.raises(TrainingDivergedError, match="the test loss became nan in epoch 1, step 4; no epoch"):
        trained("run", task=dataclasses.replace(toy_task, loss=loss))
    assert not Run.open(tmp_path / "run").state_path.exists()


def test_a_full_disk_in_the_middle_leaves_the_epoch_before_and_training_can_go_on(
    toy_task, toy_config, trained, tmp_path, monkeypatch
):
    whole, config = trained("whole"), toy_config()
    run = Run.create(tmp_path / "full", config)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        train(toy_task, config, run, progress=lambda done, _: patch.setattr(os, "fsync", full) if done == 2 else None)
    assert epochs_kept(run) == [2]
    assert [path.name for path in run.path.rglob(".*")] == []
    train(toy_task, config, run)
    assert same(read_weights(run.checkpoint), read_weights(whole.checkpoint))


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system_that_names_it(toy_task, toy_config, tmp_path):
    run = Run.create(tmp_path / "run", toy_config())
    (run.path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        train(toy_task, run.config, run)


def test_a_device_that_does_not_exist_is_refused(toy_task, toy_config, tmp_path):
    run = Run.create(tmp_path / "run", toy_config())
    with pytest.raises(ValueError, match=r"there is no device 'quantum' here .*; try 'cpu'"):
        train(toy_task, run.config, run, device="quantum")


def test_the_device_may_be_chosen_by_training_itself(toy_task, toy_config, tmp_path):
    run = Run.create(tmp_path / "run", toy_config(epochs=1))
    assert train(toy_task, run.config, run, device="auto").is_complete
