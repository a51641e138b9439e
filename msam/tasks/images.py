"""Tasks whose images lie in files: CIFAR-10, CIFAR-100, and folders of the user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from landscape.progress import Report, unreported
from msam.data import augmentation_of
from msam.data.cache import Cache
from msam.data.cifar import CIFAR10, CIFAR100, Cifar, source_of
from msam.data.folders import ImageFolder
from msam.data.places import folder_of
from msam.data.reading import NormalizedPixels
from msam.data.splits import rows_to_test_on
from msam.models.registry import ImageModel, NormName, PoolName, image_model
from msam.tasks.image_task import Images, Subset, rows_without
from msam.tasks.task import Task


def cifar(kind: Cifar, *, about: str) -> Callable[..., Task]:
    """The function that builds one of the two tasks, with its settings as arguments.

    Args:
        kind: which of them.
        about: what its images are, for the list of tasks.
    """

    def build(
        *,
        data: Path | None = None,
        model: ImageModel = "resnet20",
        norm: NormName | None = None,
        width: int | None = None,
        depth: int | None = None,
        patch: int | None = None,
        hidden: int | None = None,
        dropout: float | None = None,
        pool: PoolName | None = None,
        train_examples: int | None = None,
        validation_examples: int = 0,
        label_noise: float = 0.0,
        data_seed: int = 0,
        augment: str = "none",
        report: Report = unreported,
    ) -> Task:
        built = functools.partial(
            image_model,
            model,
            norm=norm,
            width=width,
            depth=depth,
            patch=patch,
            hidden=hidden,
            dropout=dropout,
            pool=pool,
        )
        built(channels=3, size=32, classes=kind.classes)  # refuses what it does not take before anything is read
        augmentation_of(augment, size=32, classes=kind.classes)
        subset = Subset(train_examples, validation_examples, label_noise, data_seed)
        folder = folder_of(data, what=f"the files of {kind.title}")
        source = source_of(kind, folder)
        decoded = Cache(kind.name, folder, source.files, {}).get(lambda: source.read(report))
        reading = NormalizedPixels(kind.mean, kind.std)
        return Images(kind.name, f"{kind.title} from {source.about}", decoded, reading).task(
            built, subset, augment=augment
        )

    build.__doc__ = f"""{kind.title}: {about}; from --data FOLDER, with msam-landscape[data].

    Args:
        data: folder with the hub's parquet files, or the official binary archive, unpacked or not.
        model: what is trained; settings of it that are none are its own, and those of others are refused.
        norm: normalisation of the convolutional nets.
        width: channels of the first stage; factor of wrn-28-10, width of a token of vit.
        depth: layers of wrn-28-10, blocks of vit.
        patch: side of a patch of vit, in pixels.
        hidden: units of mlp.
        dropout: of wrn-28-10 and vit, from 0 to below 1.
        pool: what goes to the head of vit: a token of its own, or the mean of the patches.
        train_examples: size of the stratified training subset; all that are left when none.
        validation_examples: stratified, set aside from the training images first; the same for every subset and seed.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Other labels are always true.
        data_seed: of the subset and of the noise.
        augment: what training does to its images: none, or several of crop, flip, cutout
            and mixup such as crop+flip+cutout=8.
        report: of images being read.
    """
    build.__name__ = build.__qualname__ = kind.name
    return build


def images(
    *,
    data: Path | None = None,
    size: int | None = None,
    test_fraction: float = 0.2,
    model: ImageModel = "resnet18",
    norm: NormName | None = None,
    width: int | None = None,
    depth: int | None = None,
    patch: int | None = None,
    hidden: int | None = None,
    dropout: float | None = None,
    pool: PoolName | None = None,
    train_examples: int | None = None,
    validation_examples: int = 0,
    label_noise: float = 0.0,
    data_seed: int = 0,
    augment: str = "none",
    report: Report = unreported,
) -> Task:
    """Image files in folders named after their classes; from --data FOLDER, with msam-landscape[data].

    Args:
        data: folder with train/<class>/ and test/<class>/ (or val/, validation/), or with <class>/ alone.
        size: sides that the largest square in the middle of each image is brought to; none: they are of one size.
        test_fraction: of a folder of classes alone, the stratified part to test on, always the same.
        model: what is trained; settings of it that are none are its own, and those of others are refused.
        norm: normalisation of the convolutional nets.
        width: channels of the first stage; factor of wrn-28-10, width of a token of vit.
        depth: layers of wrn-28-10, blocks of vit.
        patch: side of a patch of vit, in pixels.
        hidden: units of mlp.
        dropout: of wrn-28-10 and vit, from 0 to below 1.
        pool: what goes to the head of vit: a token of its own, or the mean of the patches.
        train_examples: size of the stratified training subset; all that are left when none.
        validation_examples: stratified, set aside from the training images first; the same for every subset and seed.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Other labels are always true.
        data_seed: of the subset and of the noise.
        augment: what training does to its images: none, or several of crop, flip, cutout
            and mixup such as crop+flip+cutout=8.
        report: of images being read.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, or none; got {size}")
    built = functools.partial(
        image_model, model, norm=norm, width=width, depth=depth, patch=patch, hidden=hidden, dropout=dropout, pool=pool
    )
    subset = Subset(train_examples, validation_examples, label_noise, data_seed)
    folder = folder_of(data, what="image files")
    found = ImageFolder.at(folder)
    cache = Cache("images", folder, found.files, {"size": size, "splits": sorted(found.splits)})
    decoded = cache.get(lambda: found.read(report, size=size))
    labels = decoded.tensors["train.labels"]
    tested = None if "test" in found.splits else rows_to_test_on(labels, test_fraction)
    _, _, *shape = decoded.tensors["train.images"].shape
    sums = decoded.tensors["train.sums"][rows_without(len(labels), tested)]
    reading = NormalizedPixels.of_sums(sums.sum(dim=0), pixels=len(sums) * shape[0] * shape[1])
    return Images("images", f"the images in {folder}", decoded, reading, tested).task(built, subset, augment=augment)


cifar10 = cifar(CIFAR10, about="photographs of 32x32 pixels in ten classes, 50,000 to train on, 10,000 to test on")
cifar100 = cifar(CIFAR100, about="as CIFAR-10, in a hundred classes (the fine ones)")
