"""What a trainer goes by: the denominators of a task, the state it finds, and whether it is the one that writes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from msam import Run, TrainingDivergedError, train
from msam.checkpoints import read_state, read_weights, save_state
from msam.processes import OneProcess

WEIGHTS = torch.tensor([1.0, 9.0, 0.2])


@pytest.fixture
def run(toy_task, toy_config, tmp_path):
    """Two epochs of three."""
    run = Run.create(tmp_path / "run", toy_config())

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_task, run.config, run, progress=interrupt)
    return run


def test_micro_batches_are_weighted_by_the_denominator_of_the_task(toy_task, toy_config, tmp_path):
    task = dataclasses.replace(
        toy_task,
        loss=lambda outputs, targets: functional.cross_entropy(outputs, targets, weight=WEIGHTS),
        denominator=lambda outputs, targets: WEIGHTS[targets].sum(),
    )
    whole, parts = (
        train(task, config, Run.create(tmp_path / str(config.num_microbatches), config))
        for config in (toy_config(perturbation="none", num_microbatches=number) for number in (1, 3))
    )
    for name, value in read_weights(whole.checkpoint).items():
        torch.testing.assert_close(read_weights(parts.checkpoint)[name], value, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(parts.metrics(), whole.metrics(), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)


def test_a_run_whose_state_is_gone_is_not_begun_anew_in_silence(run, toy_task):
    run.state_path.unlink()
    with pytest.raises(
        ValueError, match=r"state\.pt is gone, so training cannot go on after .*epoch-0002\.safetensors; p"
    ):
        train(toy_task, run.config, run)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"config": "another"}, "is of a run with other settings; train anew with --overwrite"),
        ({"epoch": 2.0}, r"is not the training state of this run \('epoch 2\.0'\)"),
        ({"epoch": 4}, r"is not the training state of this run \('epoch 4'\)"),
    ],
)
def test_the_state_of_other_settings_or_of_no_epoch_is_refused(changed, sentence, run, toy_task):
    save_state(read_state(run.state_path) | changed, run.state_path)
    with pytest.raises(ValueError, match=rf"state\.pt {sentence}"):
        train(toy_task, run.config, run)


def test_a_state_of_other_words_is_refused(run, toy_task):
    save_state(read_state(run.state_path) | {"vocabulary": "a1b2"}, run.state_path)
    with pytest.raises(
        ValueError, match=r"state\.pt was trained with the vocabulary a1b2, and the task toy has none now"
    ):
        train(toy_task, run.config, run)


class Second(OneProcess):
    """One that another goes before."""

    is_first = False


def test_a_process_that_is_not_the_first_writes_nothing(run, toy_task, toy_config, tmp_path):
    config = toy_config(checkpoint_every=1)
    fresh = Run.create(tmp_path / "fresh", config)
    for each in (fresh, run):
        before = {path: path.read_bytes() for path in each.path.rglob("*") if path.is_file()}
        train(toy_task, each.config, each, processes=Second())
        assert {path: path.read_bytes() for path in each.path.rglob("*") if path.is_file()} == before


def test_a_last_checkpoint_that_is_damaged_is_written_again_from_the_state(run, toy_task):
    weights = read_state(run.state_path)["model"]
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-8])

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_task, run.config, run, progress=interrupt)
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(run.checkpoint).items())


def test_two_trainings_in_one_run_are_refused(run, toy_task):
    with run.locked(), pytest.raises(ValueError, match="another process is training in"):
        train(toy_task, run.config, run)


def test_an_error_that_is_not_of_the_task_is_not_put_down_to_it(run, toy_task):
    def show(done, total):
        if done == 3:
            raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match=r"^no terminal$"):
        train(toy_task, run.config, run, progress=show)
    assert run.is_complete
    (run.path / "metrics.csv").unlink()
    assert not run.is_complete


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_weight_that_is_not_finite_is_seen_whatever_it_is(value, toy_task, toy_config, tmp_path):
    model = toy_task.build()

    def loss(outputs, targets):
        if not outputs.requires_grad:
            return functional.cross_entropy(outputs, targets)
        model[0].bias.data[1] = value  # after the forward pass, in the last step
        return functional.cross_entropy(outputs, targets)

    config = toy_config(perturbation="none", lr=0.0, num_microbatches=1, batch_size=30)
    task = dataclasses.replace(toy_task, build=lambda: model, loss=loss)
    with pytest.raises(TrainingDivergedError, match="a weight is no longer finite in epoch 1, step 1"):
        train(task, config, Run.create(tmp_path / "run", config))


@pytest.mark.parametrize(("value", "name"), [("inf", "0.bias"), ("nan", "0.bias"), ("nan", "mask"), ("-inf", "")])
def test_a_model_that_begins_with_what_is_not_finite_is_named_and_a_mask_is_let_be(
    value, name, toy_task, toy_config, tmp_path
):
    def build():
        model = toy_task.build()
        model.register_buffer("mask", torch.zeros(2))
        dict(model.named_parameters(), mask=model.mask)[name or "mask"].data[1] = float(value)
        return model

    config = toy_config(epochs=1)
    run = Run.create(tmp_path / "run", config)
    task = dataclasses.replace(toy_task, build=build)
    if name:
        with pytest.raises(ValueError, match=f"toy begins with weights that are not finite, first in {name}; mend its"):
            train(task, config, run)
        assert [path.name for path in run.path.iterdir()] == ["config.json"]
    else:
        assert train(task, config, run).is_complete


def test_a_run_of_which_every_step_was_skipped_so_far_goes_on(toy_task, toy_config, tmp_path):
    failing = [True]

    def loss(outputs, targets):
        value = functional.cross_entropy(outputs, targets)
        return value * float("inf") if failing and outputs.requires_grad else value

    def interrupt(done, total):
        if done == 1:
            failing.clear()
            raise KeyboardInterrupt

    config = toy_config(precision="fp16")
    task, run = dataclasses.replace(toy_task, loss=loss), Run.create(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        train(task, config, run, progress=interrupt)
    train(task, config, run)
    assert [row["skipped_steps"] for row in run.metrics()] == [4, 0, 0]
