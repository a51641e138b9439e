"""Tasks over files of images: what is in their splits, what they say of it, and what they refuse."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_images import cifar_parquet, labels, pixels, write_folder, write_parquet

from msam import load_task
from msam.data.cifar import CIFAR10, CIFAR100

SMALL = {"model": "cnn", "width": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sixty training and ten test images of CIFAR-10's shape."""
    monkeypatch.delenv("MSAM_DATA", raising=False)
    cifar_parquet(tmp_path, 60)
    return tmp_path


def cifar(folder, **settings):
    return load_task("cifar10", {"data": str(folder), **SMALL, **settings})


def bytes_of(examples):
    return [image.numpy().tobytes() for image in examples.inputs]


def test_the_images_are_the_bytes_of_the_files_and_the_model_takes_them_normalised(folder):
    task = cifar(folder)
    assert np.array_equal(task.train.inputs.numpy(), pixels(60))
    assert np.array_equal(task.test.inputs.numpy(), pixels(10, seed=1))
    assert task.train.inputs.dtype == torch.uint8
    model = task.model(seed=0).double().eval()
    outputs, _ = task.forward(model, (task.test.inputs, task.test.targets))
    mean, std = (torch.tensor(row).double().view(3, 1, 1) for row in (CIFAR10.mean, CIFAR10.std))
    assert torch.allclose(outputs, model((task.test.inputs.double() / 255 - mean) / std), atol=1e-12)
    objective = task.objective(model, split="test")
    expected = torch.nn.functional.cross_entropy(outputs, task.test.targets)
    assert torch.allclose(objective.loss(objective.weights), expected, atol=1e-12)


def test_cifar100_is_a_task_of_a_hundred_classes_with_its_own_normalisation(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", pixels(100), labels(100, classes=100), label="fine_label")
    task = load_task("cifar100", {"data": str(tmp_path), **SMALL})
    assert task.about.startswith("CIFAR-100 from parquet: 100 training (")
    assert task.train.targets.tolist() == list(range(100))
    assert task.model(seed=0)(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert (task.forward.mean, task.forward.std) == (CIFAR100.mean, CIFAR100.std)


def test_validation_images_are_never_trained_on_and_the_same_for_every_subset_and_seed(folder):
    validation = bytes_of(cifar(folder, validation_examples=10).validation)
    for settings in ({}, {"train_examples": 20}, {"train_examples": 20, "data_seed": 1}, {"label_noise": 1.0}):
        task = cifar(folder, validation_examples=10, **settings)
        assert bytes_of(task.validation) == validation
        assert not set(bytes_of(task.train)) & set(validation)
        assert sorted(task.validation.targets.tolist()) == list(range(10))
    assert len(cifar(folder, validation_examples=10).train) == 50
    assert cifar(folder).validation is None


def test_noise_is_on_the_training_labels_alone(folder):
    clean, noisy = (cifar(folder, validation_examples=10, label_noise=noise) for noise in (0.0, 0.5))
    other = cifar(folder, validation_examples=10, label_noise=0.5, data_seed=1)
    assert bytes_of(clean.train) == bytes_of(noisy.train) == bytes_of(other.train)
    assert not torch.equal(other.train.targets, noisy.train.targets)
    assert len(cifar(folder, label_noise=1.0).train.targets.unique()) > 7  # of ten, among sixty
    assert 0 < (clean.train.targets != noisy.train.targets).sum() <= 25
    for split in ("validation", "test"):
        assert torch.equal(clean.examples(split).targets, noisy.examples(split).targets)
    assert "50% of the training labels drawn at random" in noisy.about


def test_what_is_said_of_the_data_changes_with_every_part_of_them(folder):
    said = {
        cifar(folder, **settings).about
        for settings in (
            {"train_examples": 20},
            {"train_examples": 20, "data_seed": 1},
            {"train_examples": 20, "label_noise": 0.2},
            {"train_examples": 20, "label_noise": 0.2, "data_seed": 1},
            {"train_examples": 20, "validation_examples": 10},
        )
    }
    assert len(said) == 5
    assert cifar(folder).about == cifar(folder).about
    before = cifar(folder).about
    assert before.startswith("CIFAR-10 from parquet: 60 training (")
    write_parquet(folder / "test-00000-of-00001.parquet", pixels(10, seed=9), labels(10))
    after = cifar(folder).about
    assert after != before


def test_a_run_finds_its_data_where_they_are_now(folder, tmp_path_factory, monkeypatch):
    before = cifar(folder)
    moved = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(folder, moved)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"there is no data at .* \(no such folder\); .*MSAM_DATA=FOLDER says"):
        cifar(folder)
    monkeypatch.setenv("MSAM_DATA", str(moved))
    assert cifar(folder).about == before.about
    assert load_task("cifar10", SMALL).about == before.about
    monkeypatch.setenv("MSAM_DATA", str(moved / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"there is no data at .*nowhere, which MSAM_DATA names"):
        load_task("cifar10", SMALL)
    monkeypatch.delenv("MSAM_DATA")
    with pytest.raises(FileNotFoundError, match=r"it is not said where the files of CIFAR-10 are; .* --data FOLDER"):
        load_task("cifar10", SMALL)
    with pytest.raises(FileNotFoundError, match=r"there is no data at .*parquet \(a file, not a folder\)"):
        cifar(moved / "test-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train_examples": 9}, "train_examples must be between 10 and 50, or 60; got 9"),
        ({"train_examples": 61}, "train_examples must be between 10 and 50, or 60; got 61"),
        ({"validation_examples": 5}, "validation_examples must be between 10 and 50; got 5"),
        ({"label_noise": 1.5}, "label_noise must be between 0 and 1; got 1.5"),
        ({"data_seed": -1}, "data_seed must be between 0 and"),
        ({"augment": "flop"}, "there is no augmentation 'flop'; did you mean 'flip'"),
        ({"model": "mlp", "width": 3}, "the model mlp does not take width"),
    ],
)
def test_settings_out_of_their_range_are_refused(folder, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        cifar(folder, **settings)


def test_a_folder_of_images_is_a_task_with_its_own_normalisation(tmp_path):
    for split, number in (("train", 8), ("validation", 3), ("test", 4)):
        write_folder(tmp_path / split, {name: pixels(number, size=8, seed=number + i) for i, name in enumerate("ab")})
    task = load_task("images", {"data": str(tmp_path), **SMALL})
    assert [len(part) for part in (task.train, task.validation, task.test)] == [16, 6, 8]
    x = task.train.inputs.double() / 255
    assert torch.allclose(torch.tensor(task.forward.mean).double(), x.mean((0, 2, 3)), atol=1e-14)
    assert torch.allclose(torch.tensor(task.forward.std).double(), x.std((0, 2, 3), correction=0), atol=1e-14)
    assert task.model(seed=0)(x.float()).shape == (16, 2)
    again = load_task("images", {"data": str(tmp_path), **SMALL, "train_examples": 6})
    assert again.forward == task.forward  # of all training images, whatever is trained on
    with pytest.raises(
        ValueError, match="the files have a validation set of their own; leave out validation_examples 4"
    ):
        load_task("images", {"data": str(tmp_path), **SMALL, "validation_examples": 4})


def test_a_folder_of_classes_alone_is_split_in_one_way(tmp_path):
    write_folder(tmp_path, {name: pixels(10, size=8, seed=i) for i, name in enumerate("ab")}, mode="L")
    settings = {"data": str(tmp_path), **SMALL, "test_fraction": 0.3}
    task, other = load_task("images", settings), load_task("images", {**settings, "train_examples": 6, "data_seed": 1})
    assert (len(task.train), len(task.test), len(other.train)) == (14, 6, 6)
    assert bytes_of(task.test) == bytes_of(other.test)
    another = load_task("images", {**settings, "train_examples": 6, "data_seed": 2})
    assert torch.equal(another.train.targets, other.train.targets)
    assert another.about != other.about  # of which images it is, and not of their labels alone
    assert not set(bytes_of(task.train)) & set(bytes_of(task.test))
    assert task.train.inputs.shape[1:] == (1, 8, 8)
    x = task.train.inputs.double() / 255
    assert task.forward.mean[0] == pytest.approx(float(x.mean()), abs=1e-14)  # without those that are tested on
    with pytest.raises(ValueError, match=r"test_fraction 0.01 of 20 images is 0"):
        load_task("images", {**settings, "test_fraction": 0.01})
    with pytest.raises(ValueError, match="size must be at least 1 pixel, or none; got 0"):
        load_task("images", {**settings, "size": 0})
    with pytest.raises(
        ValueError, match=r"20 images of 999999x999999 pixels take 55879.2 GiB of memory, and .* are free"
    ):
        load_task("images", {**settings, "size": 999_999})
    assert load_task("images", {**settings, "size": "4"}).train.inputs.shape[-1] == 4


def test_training_images_are_augmented_and_stay_bytes(folder):
    assert cifar(folder).augment is None
    augment = cifar(folder, augment="crop=2+flip").augment
    assert repr(augment) == "Composed(Crop(padding=2), Flip())"
    images = torch.from_numpy(pixels(4))
    changed, _ = augment(images, torch.arange(4), draws=np.random.default_rng(0))
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("name", ["digits", "cifar10", "images"])
def test_settings_of_the_model_and_the_augmentation_reach_them(name, folder):
    write_folder(folder / "own", {of: pixels(4, size=8, seed=i) for i, of in enumerate("ab")})
    data = {"digits": {}, "cifar10": {"data": str(folder)}, "images": {"data": str(folder / "own")}}[name]

    def made(**settings):
        task = load_task(name, data | settings)
        return task, task.model(seed=0)

    task, vit = made(model="vit", patch=8, depth=1, width=8, pool="mean", dropout=0.25, augment="flip")
    assert (vit.patches.kernel_size, len(vit.blocks), vit.places.shape[2]) == ((8, 8), 1, 8)
    assert (vit.class_token, vit.dropout.p, repr(task.augment)) == (None, 0.25, "Composed(Flip())")
    _, small = made(model="mlp", hidden=3)
    _, normed = made(model="cnn", norm="group", width=4)
    assert small[1].out_features == 3  # of its hidden layer
    assert {type(layer) for layer in normed.modules()} >= {torch.nn.GroupNorm}


def test_data_are_read_once_and_reading_is_reported(folder):
    seen = []
    report = lambda stage: lambda done, total: seen.append((stage, done, total))  # noqa: E731
    load_task("cifar10", {"data": str(folder), **SMALL}, report=report)
    assert seen == [("CIFAR-10: reading images", 70, 70)]
    load_task("cifar10", {"data": str(folder), **SMALL}, report=report)
    assert len(seen) == 1


@pytest.mark.skipif("MSAM_TEST_DATA" not in os.environ, reason="MSAM_TEST_DATA does not name a folder with CIFAR-10")
def test_the_real_images_are_those_that_the_constants_are_of(tmp_path):
    for file in Path(os.environ["MSAM_TEST_DATA"]).glob("*cifar10*.parquet"):
        (tmp_path / file.name).symlink_to(file)
    task = load_task("cifar10", {"data": str(tmp_path), **SMALL})
    assert (len(task.train), len(task.test)) == (50_000, 10_000)
    assert task.train.targets.bincount().tolist() == [5000] * 10
    x = task.train.inputs[::50].double() / 255
    assert torch.allclose(x.mean((0, 2, 3)), torch.tensor(CIFAR10.mean).double(), atol=0.02)
    assert torch.allclose(x.std((0, 2, 3)), torch.tensor(CIFAR10.std).double(), atol=0.01)
