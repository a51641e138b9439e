"""Augmented training: both passes see the same images, a resume comes to the same weights, no measurement sees any."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from analyses.protocol import Protocol
from analyses.subject import Subject
from msam import Run, TrainConfig, evaluate, load_task, train
from msam.checkpoints import read_weights
from msam.data import Examples, draws_of, shuffled

ALL = "crop=1+flip+cutout=2+mixup=0.4"
CONFIG = TrainConfig(
    settings={"model": "cnn-gn", "width": 4, "train_examples": 22, "augment": ALL},
    batch_size=8,
    num_microbatches=3,
    epochs=3,
    lr=0.05,
)


@pytest.fixture
def trained(tmp_path):
    """Trains into a new run with some settings changed."""

    def run_with(name="run", *, task=None, config=CONFIG, **changes):
        config = dataclasses.replace(config, **changes)
        return train(task or config.load_task(), config, Run.create(tmp_path / name, config))

    return run_with


def weights(run):
    return read_weights(run.checkpoint)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_no_augmentation_is_training_as_it_was(trained):
    plain = {key: value for key, value in CONFIG.settings.items() if key != "augment"}
    first, none = (
        trained(name, settings=plain | more, epochs=1) for name, more in (("a", {}), ("b", {"augment": "none"}))
    )
    assert same(weights(first), weights(none))
    assert not same(weights(first), weights(trained("c", epochs=1)))


def test_a_step_is_that_of_plain_torch_on_the_augmented_batches(trained):
    """SGD on batches that are augmented by hand: the draws are those of seed, epoch and step."""
    run = trained(epochs=2, perturbation="none", momentum=0.0, schedule="constant", seed=5)
    task = CONFIG.load_task()
    model = task.model(seed=5)
    for epoch in range(2):
        order, losses = shuffled(22, seed=5, epoch=epoch), []
        for step, batch in enumerate(task.train.batches(8, order=order), start=1):
            inputs, targets = task.augment(*batch, draws=draws_of(5, epoch, step))
            loss = functional.cross_entropy(model(inputs), targets)
            losses.append(loss.item() * len(targets))
            slopes = torch.autograd.grad(loss, [*model.parameters()])
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), slopes, strict=True):
                    parameter -= 0.05 * slope
        assert run.metrics()[epoch]["train_loss"] == pytest.approx(sum(losses) / 22, rel=1e-5)  # a mean over examples
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("execution", ["layerwise", "vectorised"])
def test_every_execution_comes_to_the_same_weights(execution, trained):
    expected = weights(trained("a", epochs=1))
    for name, value in weights(trained("b", epochs=1, execution=execution)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_both_passes_of_a_micro_batch_see_the_same_images_and_each_epoch_others(trained):
    seen = []
    task = CONFIG.load_task()

    def forward(model, batch):
        seen.append((batch[0].clone(), batch[1].clone()))
        return model(batch[0]), batch[1]

    trained(task=dataclasses.replace(task, forward=forward), epochs=2)
    passes = [batch for batch in seen if batch[1].is_floating_point()]  # those of evaluation have classes
    assert len(passes) == 2 * 3 * 3 * 2  # epochs, batches, micro-batches, passes
    for first, second in zip(passes[::2], passes[1::2], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    images = torch.cat([inputs for inputs, _ in passes[::2]])
    assert len(images.flatten(1).unique(dim=0)) == 44
    clean = torch.cat([inputs for inputs, targets in seen if not targets.is_floating_point()])
    assert {image.numpy().tobytes() for image in clean} == {image.numpy().tobytes() for image in task.test.inputs}


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_very_same_weights(stop, trained, tmp_path):
    whole, run = trained("whole"), Run.create(tmp_path / "stopped", CONFIG)

    def interrupt(done, total):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG.load_task(), CONFIG, run, progress=interrupt)
    torch.rand(3)
    train(CONFIG.load_task(), CONFIG, Run.open(run.path))
    assert same(weights(run), weights(whole))


def test_no_measurement_and_no_evaluation_sees_it(trained):
    run, task = trained(), CONFIG.load_task()

    def refuse(inputs, targets, *, draws):
        raise AssertionError("augmented in a measurement")

    task = dataclasses.replace(task, augment=refuse)
    subject = Subject(run, Protocol(), task=task)
    plain = load_task("digits", {**CONFIG.settings, "augment": "none"})
    model = run.load_model(task)
    for split in ("train", "test"):
        objective, expected = task.objective(model, split=split), plain.objective(model, split=split)
        assert objective.loss(objective.weights) == expected.loss(expected.weights)
        assert objective.manifest()["objective"] == expected.manifest()["objective"]
    assert subject.train.loss == evaluate(model, plain.loss, plain.train).loss
    assert run.metrics()[-1]["test_loss"] == evaluate(model, plain.loss, plain.test).loss


def test_a_task_of_ones_own_may_augment_as_it_likes(trained):
    task = load_task("digits", {"train_examples": 22})
    asked = []

    def noisy(inputs, targets, *, draws):
        asked.append(draws.integers(2**31))
        return inputs + torch.from_numpy(draws.standard_normal(inputs.shape)).to(inputs), targets

    own = dataclasses.replace(task, augment=noisy, train=Examples(task.train.inputs.flatten(1), task.train.targets))
    own = dataclasses.replace(own, test=Examples(task.test.inputs.flatten(1), task.test.targets))
    own = dataclasses.replace(own, build=lambda: nn.Linear(64, 10))
    own.require_usable()
    config = dataclasses.replace(CONFIG, settings={})
    trained(task=own, config=config)
    assert len(set(asked)) == len(asked) == 9
    with pytest.raises(TypeError, match="augment must be a function; got a str"):
        dataclasses.replace(task, augment="flip").require_usable()


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (
            lambda x, y, draws: (x[:3], y[:3]),
            r"TypeError: augment must return a pair, .* of 8 examples; got a tuple of 3",
        ),
        (
            lambda x, y, draws: None,
            "TypeError: augment must return a pair, inputs and targets of 8 examples; got a NoneT",
        ),
        (lambda x, y, draws: (x, y, x), "TypeError: augment must return a pair"),
        (lambda x, y: (x, y), "TypeError: .*unexpected keyword argument 'draws'"),
    ],
)
def test_an_augmentation_that_is_none_is_named_with_its_task(augment, words, trained):
    task = dataclasses.replace(CONFIG.load_task(), augment=augment)
    with pytest.raises(ValueError, match=f"^the task digits failed in epoch 1 with {words}"):
        trained(task=task)
