"""Loss and accuracy of a model on examples it was or was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.batches import Batch, bytes_of_example, concatenate, num_examples, split, tensors
from landscape.denominators import Denominator, denominator_of, examples as number_of_examples
from landscape.forward import Forward, read, supervised
from landscape.losses import Loss, loss_of
from landscape.parts import weighted_mean
from landscape.results import Array
from landscape.scores import Accuracy, accuracy_beside
from landscape.terms import Mean
from msam.data import Examples

BATCH = 1000  # examples at the most that go through the model together
MOST_BYTES = 2**28  # of their outputs: a language model has a score for each word at each place


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a model is on some examples in evaluation mode.

    Attributes:
        loss: of all examples together, Σ_b d_b loss_b / Σ_b d_b over their batches.
        score: the accuracy that goes with the loss; None where the targets are no classes.
        right: how many targets of each example are of the class with the highest score, ``(n,)``; None likewise.
        counted: how many targets of each example count, ``(n,)``: one, or its tokens not ignored; None likewise.
        losses: the loss of each example on its own, ``(n,)``; None where it was not asked for, or the loss does not
            take a single example.
        weights: what each of those is divided by, ``(n,)``; one where examples are counted.
        rounding: of a mean of these losses.
    """

    loss: float
    score: Accuracy | None = None
    right: Array | None = None
    counted: Array | None = None
    losses: Array | None = None
    weights: Array | None = None
    rounding: float = 0.0

    @property
    def loss_stderr(self) -> float:
        """The error of the loss as an estimate for new examples: s/√n, with s² the variance of those of single ones.

        Where examples count differently, as by their tokens, s² is that per unit of weight; see ``weighted_mean``. NaN
        for a single example, where the losses of examples are not known, and where their mean is not the loss of all.
        """
        if self.losses is None or self.weights is None:
            return math.nan
        counts = self.weights > 0
        mean, error = weighted_mean(self.losses[counts], self.weights[counts])
        return error if abs(mean - self.loss) <= self.rounding else math.nan

    @property
    def accuracy(self) -> float:
        """The fraction of the targets that count that is right; NaN where there are none, or no classes."""
        if self.right is None or self.counted is None or not self.counted.any():
            return math.nan
        return float(self.right.sum() / self.counted.sum())

    @property
    def accuracy_stderr(self) -> float:
        """Standard error of the accuracy, as an estimate for new examples like these.

        It is binomial where each example has one target: √(p(1 − p)/n). Where they have several, those of one example
        are not independent, and it is that of a ratio of means over examples, and no less than that of one mistake
        among all targets. Where all are right, or none, the binomial one is that of one fewer, or one more: a hundred
        right answers are no certainty.
        """
        deviations = self.deviations
        if self.right is None or self.counted is None or deviations is None:
            return math.nan
        number, right = int(self.counted.sum()), int(self.right.sum())
        if self.counted.max() <= 1:
            share = (min(max(right, 1), number - 1) if number > 1 else 0.5) / number
            return math.sqrt(share * (1 - share) / number)
        drawn = math.sqrt(float(np.square(deviations).mean()) / len(deviations))
        return max(drawn, math.sqrt(1 / number * (1 - 1 / number) / number))

    @property
    def deviations(self) -> Array | None:
        """What each example adds to the accuracy beyond its mean, ``(n,)``: their mean is zero; None without classes.

        The covariance of two accuracies on the same examples is the sum of the products of these, over n².
        """
        if self.right is None or self.counted is None or not self.counted.any():
            return None
        beyond: Array = (self.right - self.accuracy * self.counted) / self.counted.mean()
        return beyond


def evaluate(
    model: nn.Module,
    loss: Loss,
    examples: Examples,
    *,
    forward: Forward = supervised,
    denominator: Denominator | None = None,
    each: bool = False,
) -> Evaluation:
    """Ask a model for its outputs, without gradients; the model's mode is put back at the end.

    Targets are classes where the loss is a cross-entropy whose ``ignore_index`` can be read off it, and where there is
    one whole number for each row of scores, ``(n,)`` for ``(n, classes)``. Elsewhere there is no accuracy.

    Args:
        model: any module.
        loss: ``loss(outputs, targets)``, a mean over the batch.
        examples: to ask about.
        forward: how a batch becomes outputs and targets.
        denominator: what the mean of a batch is divided by; read off the loss when left out. Where it does not say,
            the loss is taken of all examples at once.
        each: whether the losses of single examples are asked for, too, for the standard error of the loss.

    Raises:
        ValueError: if outputs or targets differ in shape from example to example.
    """
    denominator = denominator or denominator_of(loss)
    modes = [(module, module.training) for module in model.modules()]
    place = next((parameter.device for parameter in model.parameters()), examples.targets.device)
    there = examples.to(place)
    model.eval()
    try:
        with torch.no_grad():
            first, _ = read(forward, model, next(there.batches(1)))
            size = max(1, min(BATCH, MOST_BYTES // max(1, bytes_of_example(first))))
            pairs: Iterator[Batch] = (read(forward, model, batch) for batch in there.batches(size))
            if denominator is number_of_examples:
                pairs = iter([concatenate(list(pairs))])
            parts = [_Part.of(outputs, targets, loss, denominator, each) for outputs, targets in pairs]
    finally:
        for module, mode in modes:
            module.training = mode
    return _together(parts)


@dataclass(frozen=True)
class _Part:
    """What is kept of one batch: its outputs may be larger than the data."""

    loss: Tensor
    count: Tensor | int
    score: Accuracy | None
    right: Tensor | None
    counted: Tensor | None
    single: tuple[Tensor, Tensor] | None
    scale: float

    @classmethod
    def of(cls, outputs: Any, targets: Any, loss: Loss, denominator: Denominator, each: bool) -> _Part:
        score = accuracy_beside(loss, outputs, targets)
        found = tensors(outputs)
        return cls(
            loss=loss_of(loss, outputs, targets),
            count=denominator(outputs, targets),
            score=score,
            right=None if score is None else score.right(outputs, targets),
            counted=None if score is None else score.counted(targets),
            single=_single(outputs, targets, loss, denominator) if each else None,
            scale=max(
                (10 * torch.finfo(t.dtype).eps * float(t.abs().max()) for t in found if t.is_floating_point()),
                default=0.0,
            ),
        )


def _single(outputs: Any, targets: Any, loss: Loss, denominator: Denominator) -> tuple[Tensor, Tensor] | None:
    """The loss of each example and what it is divided by; None where the loss does not take a single one."""
    rows = split((outputs, targets), [1] * num_examples((outputs, targets)))
    try:
        found = [(loss(*row), torch.as_tensor(denominator(*row))) for row in rows]
    except (RuntimeError, ValueError, IndexError):
        return None
    return torch.stack([value for value, _ in found]), torch.stack([count for _, count in found])


def _together(parts: list[_Part]) -> Evaluation:
    whole = Mean()
    for part in parts:
        whole.add(part.loss, part.count)
    loss = float(parts[0].loss if len(parts) == 1 else whole.value)
    score = parts[0].score if all(part.score is not None for part in parts) else None
    singles = [part.single for part in parts if part.single is not None]
    known = len(singles) == len(parts)
    eps = torch.finfo(parts[0].loss.dtype).eps
    return Evaluation(
        loss=loss,
        score=score,
        right=None if score is None else _numbers([part.right for part in parts]),
        counted=None if score is None else _numbers([part.counted for part in parts]),
        losses=_numbers([values for values, _ in singles]) if known else None,
        weights=_numbers([counts for _, counts in singles]) if known else None,
        rounding=max(10 * eps * abs(loss), *(part.scale for part in parts)),
    )


def _numbers(parts: list[Any]) -> Array:
    numbers: Array = np.concatenate([part.cpu().double().numpy() for part in parts])
    return numbers


def metrics_of(
    model: nn.Module,
    loss: Loss,
    splits: Mapping[str, Examples],
    *,
    forward: Forward = supervised,
    denominator: Denominator | None = None,
) -> dict[str, float]:
    """Loss and accuracy on each split, as columns of a table: ``test_loss``, ``test_accuracy``."""
    found: dict[str, float] = {}
    for name, examples in splits.items():
        seen = evaluate(model, loss, examples, forward=forward, denominator=denominator)
        found |= {f"{name}_loss": seen.loss, f"{name}_accuracy": seen.accuracy}
    return found
