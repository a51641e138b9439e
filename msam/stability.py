"""Where gradient descent becomes unstable: the largest eigenvalue that a learning rate allows."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from landscape.results import Array
from msam.choices import SCHEDULES
from msam.config import TrainConfig

NO_THRESHOLD = math.nan


def learning_rates(config: TrainConfig, epochs: Array, *, num_examples: int) -> Array:
    """The learning rate of the step that led to each epoch, ``(n,)``; of the first step, at epoch 0."""
    steps = math.ceil(num_examples / config.batch_size)
    curve = SCHEDULES[config.schedule]
    return np.array([config.lr * curve(max(0, epoch * steps - 1) / (config.epochs * steps)) for epoch in epochs])


def thresholds(
    config: TrainConfig, rates: Array, *, model: nn.Module, num_examples: int, split: str
) -> tuple[Array, str]:
    """λ₁ above which descent on a quadratic diverges at each learning rate, ``(n,)``, and what that is in words.

    With learning rate η, momentum β and weight decay δ, heavy-ball descent on a quadratic diverges along an eigenvector
    of the loss whose eigenvalue is above (2 + 2β)/η − δ; gradient descent is β = 0 (Cohen et al. 2021, arXiv
    2103.00065). It is a property of descent along the gradient of the very loss that is measured: NaN, with the reason,
    where the run took other steps or minimised another function. Mini-batches are noisy, and stay below it.
    """
    reason = _why_none(config, model, split)
    if reason:
        return np.full(len(rates), NO_THRESHOLD), f"no stability threshold is drawn: {reason}"
    with np.errstate(divide="ignore"):
        found = (2 + 2 * config.momentum) / np.asarray(rates, dtype=np.float64) - config.weight_decay
    formula = "2/lr" if config.momentum == 0 else f"(2 + 2β)/lr with momentum β = {config.momentum:g}"
    decay = f" − weight decay {config.weight_decay:g}" if config.weight_decay else ""
    whole = config.batch_size >= num_examples
    descent = "" if whole else f"; batches of {config.batch_size} are noisy, and stay below it"
    return found, f"{formula}{decay}: where full-batch descent becomes unstable{descent}"


def _why_none(config: TrainConfig, model: nn.Module, split: str) -> str:
    """Why (2 + 2β)/η says nothing of a run; empty when it does."""
    if config.optimizer != "sgd":
        return f"2/lr is that of gradient descent, and {config.optimizer} rescales each step"
    if config.perturbation != "none" and config.rho > 0:
        return f"2/lr is that of gradient descent, and {config.method} descends along gradients elsewhere"
    if config.max_grad_norm > 0:
        return "gradients were clipped, which shortens steps"
    if config.lr == 0:
        return "the learning rate is zero"
    if split != "train":
        return "the test loss is not what was minimised"
    noisy = [type(part).__name__ for part in model.modules() if _changes_in_training(part)]
    if noisy:
        return f"{noisy[0]} makes the loss in training another one than that in evaluation"
    return ""


def _changes_in_training(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return True
    return isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
