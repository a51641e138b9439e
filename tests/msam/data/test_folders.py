"""Folders of images are read by their layout, and what is amiss is said with the name of the folder or the file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from made_up_images import encoded, pixels, write_folder

from landscape.progress import unreported
from msam.data.folders import ImageFolder
from msam.data.reading import NormalizedPixels


def of_classes(number=3, *, size=6, seed=0):
    return {name: pixels(number + i, size=size, seed=seed + i) for i, name in enumerate(("cat", "dog"))}


@pytest.fixture
def folder(tmp_path):
    """Training and test images of two classes; the second has one more."""
    write_folder(tmp_path / "train", of_classes())
    write_folder(tmp_path / "test", of_classes(2, seed=10))
    return tmp_path


def read(folder, **settings):
    return ImageFolder.at(folder).read(unreported, **settings)


def test_classes_are_numbered_in_the_order_of_their_names(folder):
    decoded = read(folder)
    images = of_classes()
    assert decoded.facts == {"classes": ["cat", "dog"]}
    assert np.array_equal(decoded.tensors["train.images"].numpy(), np.concatenate([images["cat"], images["dog"]]))
    assert decoded.tensors["train.labels"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert decoded.tensors["test.labels"].tolist() == [0, 0, 1, 1, 1]
    tests = of_classes(2, seed=10)
    assert np.array_equal(decoded.tensors["test.images"].numpy(), np.concatenate([tests["cat"], tests["dog"]]))


def test_the_normalisation_is_that_of_the_pixels_to_the_last_digit(folder):
    sums = read(folder).tensors["train.sums"]
    images = np.concatenate(list(of_classes().values())).astype(np.float64) / 255
    reading = NormalizedPixels.of_sums(sums.sum(dim=0), pixels=7 * 36)
    np.testing.assert_allclose(reading.mean, images.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(reading.std, images.std((0, 2, 3)), rtol=1e-13)
    part = NormalizedPixels.of_sums(sums[:3].sum(dim=0), pixels=3 * 36)
    np.testing.assert_allclose(part.mean, images[:3].mean((0, 2, 3)), rtol=1e-14)


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    write_folder(tmp_path, of_classes(), mode="L")
    decoded = read(tmp_path)
    assert decoded.tensors["train.images"].shape == (7, 1, 6, 6)
    assert decoded.tensors["train.sums"].shape == (7, 1, 2)
    (tmp_path / "dog" / "99.png").write_bytes(encoded(pixels(1, size=6)[0]))
    assert read(tmp_path).tensors["train.images"].shape == (8, 3, 6, 6)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_folder_is_the_test_set_where_there_is_no_other(folder, name):
    whole = ImageFolder.at(folder)
    (folder / "test").rename(folder / name)
    alone = ImageFolder.at(folder)
    assert list(alone.splits) == list(whole.splits) == ["train", "test"]
    shutil.copytree(folder / name, folder / "test")
    assert list(ImageFolder.at(folder).splits) == ["train", "test", "validation"]


def test_hidden_files_and_other_files_are_passed_over(folder):
    number = len(ImageFolder.at(folder).files)
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "cat" / "._00.png").write_bytes(b"x")
    (folder / "train" / "README.md").write_bytes(b"x")
    assert len(ImageFolder.at(folder).files) == number
    (folder / "train" / "cat" / "more").mkdir()
    (folder / "train" / "cat" / "more" / "a.PNG").write_bytes(b"x")
    assert len(ImageFolder.at(folder).files) == number + 1


def test_images_of_mixed_size_are_refused_unless_they_are_brought_to_one(folder):
    (folder / "train" / "dog" / "01.png").write_bytes(encoded(pixels(1, size=8)[0]))
    with pytest.raises(
        ValueError, match=r"dog/01.png has 8x8 pixels and .*cat/00.png 6x6; resize all with --set size="
    ):
        read(folder)
    assert read(folder, size=5).tensors["train.images"].shape == (7, 3, 5, 5)
    (folder / "train" / "cat" / "00.png").write_bytes(encoded(pixels(1, size=8)[0][:, :4]))
    with pytest.raises(ValueError, match=r"cat/00.png has 8x4 pixels and is no square; resize all with --set size="):
        read(folder)


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "test" / "cat" / "01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"test/cat/01.png is no image that can be read"):
        read(folder)


def test_an_empty_class_is_named(folder):
    (folder / "train" / "bird").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the class .*train/bird has no image; put some there, or remove"):
        ImageFolder.at(folder)


def test_test_classes_that_differ_from_those_of_training_are_named(folder):
    write_folder(folder / "test", {"fox": pixels(1, size=6)})
    with pytest.raises(ValueError, match=r"classes of .*train and .*test differ: 'fox' is in test alone"):
        ImageFolder.at(folder)
    shutil.rmtree(folder / "test" / "fox")
    shutil.rmtree(folder / "test" / "dog")
    write_folder(folder / "test", {"cow": pixels(1, size=6)})
    with pytest.raises(ValueError, match="differ: 'cow' is in test alone"):
        ImageFolder.at(folder)


def test_folders_without_classes_or_without_test_images_say_what_is_expected(folder, tmp_path):
    shutil.rmtree(folder / "test")
    with pytest.raises(FileNotFoundError, match="has a folder train and none named test, val or validation; make one"):
        ImageFolder.at(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no folders of classes; it must have train/<class>/ and"):
        ImageFolder.at(tmp_path / "empty")
    shutil.rmtree(folder / "train" / "dog")
    with pytest.raises(FileNotFoundError, match="train has one class alone, 'cat'"):
        ImageFolder.at(folder / "train")
