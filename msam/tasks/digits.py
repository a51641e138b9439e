"""The task that is always there: handwritten digits."""

from __future__ import annotations

from torch.nn import functional

from msam.data import augmentation_of, digits_examples, stratified, with_label_noise
from msam.models import ImageModel, NormName, image_model, origin_of
from msam.tasks.task import Task


def digits(
    *,
    model: ImageModel = "mlp",
    hidden: int | None = None,
    width: int | None = None,
    norm: NormName | None = None,
    depth: int | None = None,
    patch: int | None = None,
    dropout: float | None = None,
    train_examples: int = 1000,
    label_noise: float = 0.0,
    data_seed: int = 0,
    augment: str = "none",
) -> Task:
    """Handwritten digits, 8x8 pixels, embedded in scikit-learn: 1,000 to train on, 797 to test on.

    Args:
        model: what is trained; settings of it that are none are its own, and those of others are refused. hf:FOLDER is
            a Hugging Face image classifier.
        hidden: hidden units of mlp.
        width: channels of the convolutional nets, factor of wrn-28-10, width of a token of vit.
        norm: normalisation of the convolutional nets.
        depth: layers of wrn-28-10, blocks of vit.
        patch: side of a patch of vit, in pixels.
        dropout: of wrn-28-10 and vit, from 0 to below 1.
        train_examples: size of the stratified training subset: 10 to 990, or all 1,000.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Test labels are always true.
        data_seed: of the subset and of the noise; the split into training and test data is always the same.
        augment: what training does to its images, such as ``crop+cutout=2+mixup=0.2``; see :func:`augmentation_of`.
    """
    if not (10 <= train_examples <= 990 or train_examples == 1000):  # a stratified rest needs one of each class
        raise ValueError(f"train_examples must be between 10 and 990, or 1000; got {train_examples}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be between 0 and 1; got {label_noise}")
    if not 0 <= data_seed < 2**32:
        raise ValueError(f"data_seed must be between 0 and 2**32 - 1; got {data_seed}")
    build = image_model(
        model,
        channels=1,
        size=8,
        classes=10,
        norm=norm,
        width=width,
        depth=depth,
        patch=patch,
        hidden=hidden,
        dropout=dropout,
    )
    augmented = augmentation_of(augment, size=8, classes=10)
    train, test = stratified(digits_examples(), 1000, seed=0)
    if train_examples < 1000:
        train, _ = stratified(train, train_examples, seed=data_seed)
    train = with_label_noise(train, label_noise, classes=10, seed=data_seed)
    noise = f", {label_noise:.0%} of the training labels drawn at random" if label_noise else ""
    about = f"scikit-learn's digits: {train_examples} training and {len(test)} test images, stratified{noise}"
    about = "; ".join([about, *origin_of(build)])
    return Task("digits", build, functional.cross_entropy, train, test, about, augment=augmented)
