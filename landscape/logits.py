"""Losses of logits of one length, so that their scale counts for nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class LogitNormalized(nn.Module):
    """loss(ẑ, y) with ẑ = (z − mean z) / ‖z − mean z‖₂ over the classes, for each example (and each token).

    A network whose logits are multiplied by a positive number, or shifted, has the same loss, and so the same
    sharpness of it. What the loss divides by is read off the one that is wrapped. Logits that are all equal stay zero,
    without a slope. Source: Andriushchenko et al. 2023 (arXiv 2302.07011).

    Args:
        loss: a loss of logits ``(n, classes)`` or ``(n, classes, ...)``, such as ``nn.CrossEntropyLoss()``.

    Raises:
        TypeError: if the loss cannot be called.

    >>> loss = LogitNormalized(nn.functional.cross_entropy)
    >>> z, y = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0])
    >>> torch.equal(loss(z, y), loss(4 * z + 8, y))
    True
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        if not callable(loss):
            raise TypeError(f"loss must be a function of logits and targets; got {loss!r}")
        self.loss = loss

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of the normalised logits.

        Raises:
            ValueError: if there are fewer than two classes.
        """
        dim = 1 if logits.ndim > 1 else 0
        if logits.ndim == 0 or logits.shape[dim] < 2:
            raise ValueError(
                f"logits must have two classes or more to be normalised over them; got shape {tuple(logits.shape)}"
            )
        centred = logits - logits.mean(dim=dim, keepdim=True)
        flat = (logits == logits.narrow(dim, 0, 1)).all(dim=dim, keepdim=True)
        length = torch.linalg.vector_norm(torch.where(flat, 1, centred), dim=dim, keepdim=True)  # no slope at zero
        return self.loss(torch.where(flat, 0, centred / length), targets)
