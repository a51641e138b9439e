"""Tasks: built by name, checked, reproducible."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from msam import Run, TrainConfig, load_task, train


def test_training_and_test_images_are_disjoint_and_the_test_images_always_the_same():
    first, second = load_task("digits", {}), load_task("digits", {"data_seed": 1, "train_examples": 100})
    assert (len(first.train), len(first.test), len(second.train)) == (1000, 797, 100)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert torch.equal(first.test.targets, second.test.targets)
    rows = [{bytes(image.numpy().tobytes()) for image in part.inputs} for part in (first.train, first.test)]
    assert not rows[0] & rows[1]


@pytest.mark.parametrize("settings", [{"train_examples": 100}, {"label_noise": 0.3}])
def test_the_data_seed_alone_decides_subset_and_noise(settings):
    first, again = (load_task("digits", {**settings, "data_seed": 3}) for _ in range(2))
    other = load_task("digits", {**settings, "data_seed": 4})
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.train.targets, again.train.targets)
    assert not torch.equal(first.train.targets, other.train.targets)


def test_label_noise_changes_training_labels_only_and_as_many_as_asked_for():
    clean, noisy = load_task("digits", {}), load_task("digits", {"label_noise": 0.5})
    assert torch.equal(clean.train.inputs, noisy.train.inputs)
    assert torch.equal(clean.test.targets, noisy.test.targets)
    changed = (clean.train.targets != noisy.train.targets).sum().item()
    assert changed <= 500
    assert changed == pytest.approx(450, abs=30)  # one in ten is drawn as it was
    assert "50%" in noisy.about


@pytest.mark.parametrize("number", [10, 11, 500, 990, 1000])
def test_a_subset_has_as_many_examples_as_asked_for_with_all_classes_in_it(number):
    counts = load_task("digits", {"train_examples": number}).train.targets.bincount(minlength=10)
    whole = load_task("digits", {}).train.targets.bincount()
    assert counts.sum() == number
    assert (counts - whole * number / 1000).abs().max() < 1


def test_settings_may_be_strings_as_from_a_command_line():
    task = load_task("digits", {"hidden": "5", "train_examples": "20", "label_noise": "0.5"})
    assert task.model(seed=0)[1].out_features == 5
    assert len(task.train) == 20


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("digit", {}, "there is no task 'digit'; did you mean 'digits'"),
        ("imagenet", {}, "there is no task 'imagenet'; did you mean 'images'. There are: digits, .*cifar10"),
        ("digits", {"modle": "mlp"}, "has no setting 'modle'; did you mean 'model'"),
        ("digits", {"zzz": 1}, "has no setting 'zzz'; there are: model, hidden, width"),
        (
            "digits",
            {"model": "cnnbn"},
            "there is no model 'cnnbn'; did you mean 'cnn-bn'.*mlp, cnn, cnn-bn, cnn-gn, resnet20",
        ),
        ("digits", {"hidden": "many"}, "hidden must be of type int; got 'many'"),
        ("digits", {"hidden": 2.5}, "hidden must be of type int; got 2.5"),
        ("digits", {"train_examples": None}, "train_examples must be of type int; got None"),
        ("digits", {"hidden": True}, "hidden must be of type int; got True"),
        ("digits", {"hidden": float("inf")}, "hidden must be of type int; got inf"),
        ("digits", {"hidden": 0}, "hidden must be positive.*got 0"),
        ("digits", {"model": "cnn-bn", "width": 6}, "width must be a positive multiple of 4; got 6"),
        ("digits", {"width": 8}, r"the model mlp does not take width \(got 8\); it takes hidden"),
        ("digits", {"model": "resnet20", "hidden": 8, "width": 4}, "resnet20 does not take hidden .*takes norm, width"),
        ("digits", {"model": "cnn-bn", "norm": "group"}, "the model cnn-bn does not take norm"),
        ("digits", {"model": "vit", "patch": 3}, "patch must divide the side of the images, 8 pixels; got 3"),
        ("digits", {"train_examples": 9}, "between 10 and 990, or 1000; got 9"),
        ("digits", {"train_examples": 995}, "between 10 and 990, or 1000; got 995"),
        ("digits", {"train_examples": 1001}, "between 10 and 990, or 1000; got 1001"),
        ("digits", {"label_noise": 1.5}, "label_noise must be between 0 and 1; got 1.5"),
        ("digits", {"label_noise": "nan"}, "label_noise must be between 0 and 1; got nan"),
        ("digits", {"label_noise": "half"}, "label_noise must be of type float; got 'half'"),
        ("digits", {"data_seed": -1}, "data_seed must be between 0 and .*; got -1"),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_a_way_out(name, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_task(name, settings)


@pytest.mark.parametrize("model", ["mlp", "cnn-bn", "cnn-gn"])
def test_a_model_is_decided_by_its_seed_and_the_global_random_state_stays(model):
    task = load_task("digits", {"model": model} | ({} if model == "mlp" else {"width": 4}))
    state = torch.get_rng_state()
    first = task.model(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = task.model(seed=3), task.model(seed=4)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_an_objective_of_a_split_is_the_mean_loss_in_evaluation_mode():
    task = load_task("digits", {"model": "cnn-bn", "width": 4, "train_examples": 50})
    model = task.model(seed=0).double()
    test = task.test.inputs.double()
    task = type(task)(task.name, task.build, task.loss, task.train, type(task.test)(test, task.test.targets), "")
    objective = task.objective(model, split="test", batch_size=300)
    expected = task.loss(model.eval()(test), task.test.targets)
    torch.testing.assert_close(objective.loss(objective.weights), expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_an_objective_leaves_every_layer_of_the_model_in_its_mode(training):
    task = load_task("digits", {"model": "cnn-bn", "width": 4, "train_examples": 20})
    model = task.model(seed=0).train(training)
    next(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)).train(not training)
    modes = [layer.training for layer in model.modules()]
    assert task.objective(model).manifest()["objective"]["mode"] == "evaluation"
    assert [layer.training for layer in model.modules()] == modes
    nn.init.constant_(next(model.parameters()), float("nan"))
    with pytest.raises(ValueError, match="not all finite"):
        task.objective(model)
    assert [layer.training for layer in model.modules()] == modes


@pytest.mark.parametrize(
    ("chosen", "training"),
    [
        ({"model": "mlp", "hidden": 16, "width": 4}, {}),  # as in a config from before models had more settings
        ({"model": "cnn-bn", "hidden": 16, "width": 4}, {}),
        ({"model": "cnn-gn", "hidden": 16, "width": 4}, {}),
        ({"model": "cnn", "norm": "group", "width": 4}, {}),
        ({"model": "vit", "depth": 1, "width": 16, "patch": 4}, {"optimizer": "adamw", "lr": 0.01}),
    ],
    ids=lambda part: part.get("model", ""),
)
def test_a_built_in_model_trains_for_an_epoch_and_its_loss_falls(chosen, training, tmp_path):
    settings = {**chosen, "train_examples": 210}
    config = TrainConfig(settings=settings, epochs=2, batch_size=32, num_microbatches=3, schedule="constant")
    config = dataclasses.replace(config, **training)
    rows = train(config.load_task(), config, Run.create(tmp_path / "run", config)).metrics()
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert rows[1]["test_loss"] < 2.3


def test_a_validation_set_is_asked_for_by_name_and_missed_in_a_sentence():
    task = load_task("digits", {"train_examples": 20})
    model = task.model(seed=0)
    with pytest.raises(ValueError, match="the task digits has no validation set with these settings; name train or"):
        task.objective(model, split="validation")
    with_one = dataclasses.replace(task, validation=task.train.taken(torch.arange(7)))
    objective = with_one.objective(model, split="validation")
    expected = nn.functional.cross_entropy(model(task.train.inputs[:7]), task.train.targets[:7])
    assert objective.loss(objective.weights) == pytest.approx(expected.item(), rel=1e-6)
    assert objective.manifest()["objective"]["split"] == "validation"
    with pytest.raises(ValueError, match="validation has no examples"):
        dataclasses.replace(task, validation=task.train.taken(torch.arange(0))).require_usable()
