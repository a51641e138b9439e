"""The task that is always there: handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn
from torch.nn import functional

from msam.data import digits_examples, stratified, with_label_noise
from msam.models import cnn, group_norm, mlp
from msam.tasks.task import Task


def digits(
    *,
    model: Literal["mlp", "cnn-bn", "cnn-gn"] = "mlp",
    hidden: int = 128,
    width: int = 16,
    train_examples: int = 1000,
    label_noise: float = 0.0,
    data_seed: int = 0,
) -> Task:
    """Handwritten digits, 8x8 pixels, embedded in scikit-learn: 1,000 to train on, 797 to test on.

    Args:
        model: a perceptron, or a small convolutional net with batch or group norm.
        hidden: hidden units of the perceptron.
        width: channels of the convolutional nets, a multiple of four.
        train_examples: size of the stratified training subset: 10 to 990, or all 1,000.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Test labels are always true.
        data_seed: of the subset and of the noise; the split into training and test data is always the same.
    """
    if not (10 <= train_examples <= 990 or train_examples == 1000):  # a stratified rest needs one of each class
        raise ValueError(f"train_examples must be between 10 and 990, or 1000; got {train_examples}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be between 0 and 1; got {label_noise}")
    if not 0 <= data_seed < 2**32:
        raise ValueError(f"data_seed must be between 0 and 2**32 - 1; got {data_seed}")
    if hidden < 1 or width < 4 or width % 4:
        raise ValueError(f"hidden must be positive and width a positive multiple of 4; got {hidden} and {width}")
    builders: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: mlp(inputs=64, hidden=hidden, classes=10),
        "cnn-bn": lambda: cnn(channels=1, width=width, classes=10, norm=nn.BatchNorm2d),
        "cnn-gn": lambda: cnn(channels=1, width=width, classes=10, norm=group_norm),
    }
    train, test = stratified(digits_examples(), 1000, seed=0)
    if train_examples < 1000:
        train, _ = stratified(train, train_examples, seed=data_seed)
    train = with_label_noise(train, label_noise, classes=10, seed=data_seed)
    noise = f", {label_noise:.0%} of the training labels drawn at random" if label_noise else ""
    about = f"scikit-learn's digits: {train_examples} training and {len(test)} test images, stratified{noise}"
    return Task("digits", builders[model], functional.cross_entropy, train, test, about)
