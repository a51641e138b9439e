"""Loss and accuracy of a model on examples it was or was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from landscape.forward import Forward, supervised
from landscape.results import Array
from landscape.terms import Loss
from msam.data import Examples

BATCH = 1000


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier makes of some examples in evaluation mode, and how good that is.

    Attributes:
        outputs: the scores of the classes, ``(n, classes)``.
        targets: the true classes, ``(n,)``.
        criterion: ``criterion(outputs, targets)``, a mean over the examples.
    """

    outputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    criterion: Loss

    @cached_property
    def loss(self) -> float:
        """The loss of all examples together."""
        return float(self.criterion(self.outputs, self.targets))

    @cached_property
    def losses(self) -> Array:
        """The loss of each example on its own, ``(n,)``; NaN where the loss does not take a single example."""
        rows = zip(self.outputs.unsqueeze(1), self.targets.unsqueeze(1), strict=True)
        try:
            found: Array = torch.stack([self.criterion(*row) for row in rows]).cpu().double().numpy()
        except (RuntimeError, ValueError, IndexError):
            return np.full(len(self.targets), np.nan)
        return found

    @property
    def loss_stderr(self) -> float:
        """s/√n, with s² the variance of the losses of single examples: the error as an estimate for new examples.

        NaN for a single example, and where the losses of single examples do not average to the loss of all, as when
        classes have weights: the loss is then no plain mean, and s/√n is not its error.
        """
        number = len(self.targets)
        rounding = 10 * torch.finfo(self.outputs.dtype).eps * max(abs(self.loss), float(self.outputs.abs().max()))
        plain_mean = abs(float(self.losses.mean()) - self.loss) <= rounding
        return float(self.losses.std(ddof=1)) / math.sqrt(number) if number > 1 and plain_mean else math.nan

    @cached_property
    def correct(self) -> Array:
        """Whether the highest score is that of the true class, ``(n,)``."""
        found: Array = (self.outputs.argmax(dim=1) == self.targets).cpu().numpy()
        return found

    @property
    def accuracy(self) -> float:
        """The fraction that is correct."""
        return float(self.correct.mean())

    @property
    def accuracy_stderr(self) -> float:
        """Binomial standard error of the accuracy, as an estimate for new examples like these.

        Where all are right, or none, it is that of one fewer, or one more: a hundred right answers are no certainty.
        """
        number = len(self.targets)
        right = min(max(int(self.correct.sum()), 1), number - 1) if number > 1 else 0.5
        return math.sqrt(right / number * (1 - right / number) / number)


def evaluate(model: nn.Module, loss: Loss, examples: Examples, *, forward: Forward = supervised) -> Evaluation:
    """Ask a classifier for its outputs, without gradients; the model's mode is put back at the end.

    Raises:
        ValueError: if the outputs are not scores of classes ``(n, classes)``, or the targets not classes ``(n,)``.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            pairs = [forward(model, batch) for batch in examples.batches(BATCH)]
        outputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    finally:
        for module, mode in modes:
            module.training = mode
    if outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            f"accuracy needs scores of classes (n, classes) and targets (n,) that number them; got outputs of shape "
            f"{tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} and type {targets.dtype}"
        )
    return Evaluation(outputs, targets, loss)
