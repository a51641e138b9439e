"""What else is read off a model's outputs beside its loss: scores, such as the accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from landscape.denominators import CrossEntropyDenominator, Denominator, denominator_of
from landscape.precision import widest

Score = Callable[[Any, Any], Tensor]  # score(outputs, targets): the mean over a batch, a scalar


class Accuracy:
    """The share of targets whose class has the largest output, out of the targets that are not ignored.

    Outputs are those of a cross-entropy, ``(n, classes)`` or ``(n, classes, ...)``; for tokens ``(n, ..., classes)`` is
    read as well, where the second dimension does not fit. Each target counts once, whatever class weights the loss has.

    Args:
        ignore_index: a target that does not count.

    >>> import torch
    >>> outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    >>> accuracy(outputs, torch.tensor([0, 0, -100])).item()
    0.5
    """

    __name__ = "accuracy"

    def __init__(self, *, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The mean over a batch, a scalar tensor; NaN where nothing counts.

        Raises:
            ValueError: if the targets are no classes.
        """
        number = self.right(outputs, targets).sum()
        share: Tensor = number.to(widest(number.device)) / self.denominator(outputs, targets)
        return share

    def right(self, outputs: Any, targets: Any) -> Tensor:
        """How many of the targets of each example count and are right, ``(n,)``.

        Raises:
            ValueError: if the targets are no classes.
        """
        axis = _axis_of_classes(outputs, targets)
        hits: Tensor = (outputs.argmax(axis) == targets) & (targets != self.ignore_index)
        return hits.reshape(len(targets), -1).sum(1)

    def counted(self, targets: Tensor) -> Tensor:
        """How many of the targets of each example count, ``(n,)``."""
        return (targets != self.ignore_index).reshape(len(targets), -1).sum(1)

    def denominator(self, outputs: Any, targets: Any) -> Tensor:
        """How many targets count."""
        del outputs
        return self.counted(targets).sum()

    def __repr__(self) -> str:
        return f"accuracy over targets other than {self.ignore_index}"


accuracy = Accuracy()


def require_score(score: object) -> None:
    """A score must be a function, or None.

    Raises:
        TypeError: if it cannot be called.
    """
    if score is not None and not callable(score):
        raise TypeError(f"score must be a function of outputs and targets, such as accuracy; got {score!r}")


def accuracy_beside(loss: Callable[..., Any], outputs: Any, targets: Any) -> Accuracy | None:
    """The accuracy that goes with a loss, over the targets that it counts; None where they are not known to be classes.

    They are where the loss is a cross-entropy that says what it ignores, and targets number the second dimension of the
    outputs, ``(n, classes, ...)``; and under another loss where each row of scores, ``(n, classes)``, has one target
    among its classes. Elsewhere the loss may pair outputs and targets as it likes, and an accuracy would be made up.

    >>> import torch
    >>> outputs, targets = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long)
    >>> accuracy_beside(torch.nn.CrossEntropyLoss(ignore_index=0), outputs, targets)
    accuracy over targets other than 0
    >>> accuracy_beside(torch.nn.functional.mse_loss, outputs, torch.zeros(2, 3, 4)) is None
    True
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or outputs.ndim != targets.ndim + 1:
        return None
    if targets.is_floating_point() or targets.is_complex() or outputs.ndim < 2:
        return None
    if (outputs.shape[0], *outputs.shape[2:]) != targets.shape or outputs.shape[1] < 2:
        return None
    known = denominator_of(loss)
    if isinstance(known, CrossEntropyDenominator):
        return Accuracy(ignore_index=known.ignore_index)
    named = targets[targets != accuracy.ignore_index]
    among = bool(((named >= 0) & (named < outputs.shape[1])).all())
    return accuracy if targets.ndim == 1 and among else None


def name_of_score(score: Score | None) -> str:
    """What a score is called in results; empty for none."""
    return "" if score is None else str(getattr(score, "__name__", type(score).__name__))


def denominator_of_score(score: Score, of_loss: Denominator) -> Denominator:
    """What the mean of a score was divided by: what it says itself, or else what that of the loss was."""
    own: Denominator = getattr(score, "denominator", of_loss)
    return own


def value_of_score(score: Score, outputs: Any, targets: Any) -> Tensor:
    """A score of one batch.

    Raises:
        ValueError: if it is not one number.
    """
    value = score(outputs, targets)
    if not isinstance(value, Tensor) or value.ndim != 0:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"score must return a scalar tensor, the mean over the batch; {name_of_score(score)} gave {found}"
        )
    return value


def _axis_of_classes(outputs: Any, targets: Any) -> int:
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        raise ValueError(
            f"the accuracy needs a tensor of outputs and one of classes; got {type(outputs).__name__} and "
            f"{type(targets).__name__}. Pass another score, score(outputs, targets) -> mean over the batch."
        )
    if not (targets.is_floating_point() or targets.is_complex()) and outputs.ndim == targets.ndim + 1:
        if outputs.ndim >= 2 and (outputs.shape[0], *outputs.shape[2:]) == targets.shape:
            return 1
        if outputs.shape[:-1] == targets.shape:
            return -1
    kind = str(targets.dtype).removeprefix("torch.")
    raise ValueError(
        f"the accuracy needs whole numbers of classes as targets, with outputs (n, classes, ...) for targets (n, ...); "
        f"got {kind} targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}. Pass another "
        "score, score(outputs, targets) -> mean over the batch."
    )
