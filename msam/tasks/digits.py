"""The task that is always there: handwritten digits."""

from __future__ import annotations

from torch.nn import functional

from msam.data import augmentation_of, digits_examples, stratified, with_label_noise
from msam.data.splits import require_noise, training_and_validation
from msam.models import ImageModel, NormName, PoolName, image_model, origin_of
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
    pool: PoolName | None = None,
    train_examples: int = 1000,
    validation_examples: int = 0,
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
        pool: what goes to the head of vit: a token of its own, or the mean of the patches.
        train_examples: size of the stratified training subset: 10 to 990, or all 1,000; fewer where some validate.
        validation_examples: stratified, set aside from the 1,000 first; the same for every subset and seed.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Test labels are always true.
        data_seed: of the subset and of the noise; the split into training and test data is always the same.
        augment: what training does to its images: none, or several of crop, flip, cutout
            and mixup such as crop+cutout=2+mixup=0.2.
    """
    require_noise(label_noise, data_seed)
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
        pool=pool,
    )
    augmented = augmentation_of(augment, size=8, classes=10)
    whole, test = stratified(digits_examples(), 1000, seed=0)
    rows, aside = training_and_validation(
        whole.targets, train_examples=train_examples, validation_examples=validation_examples, seed=data_seed
    )
    train = with_label_noise(whole.taken(rows), label_noise, classes=10, seed=data_seed)
    validation = whole.taken(aside) if validation_examples else None
    noise = f", {label_noise:.0%} of the training labels drawn at random" if label_noise else ""
    others = f", {validation_examples} validation" if validation_examples else ""
    about = f"scikit-learn's digits: {train_examples} training{others} and {len(test)} test images, stratified{noise}"
    about = "; ".join([about, *origin_of(build)])
    return Task("digits", build, functional.cross_entropy, train, test, about, validation=validation, augment=augmented)
