"""Examples mixed with one another in training."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landscape.arguments import integer, real


class MixUp:
    """Convex combinations of pairs of examples (Zhang, Cisse, Dauphin, Lopez-Paz 2018, arXiv 1710.09412)::

        x = λ x_i + (1 − λ) x_j      y = λ y_i + (1 − λ) y_j      λ ~ Beta(α, α), one for each pair

    j goes through the batch in random order. Classes become their probabilities, ``(n, classes)``, of which a mean of
    cross-entropies is still a mean over examples; targets that are floating point numbers are mixed as they are. Pixels
    of 0 to 255 become floating point numbers on the same scale.

    Args:
        alpha: α > 0; the smaller, the nearer most examples are to one of their two.
        classes: their number.

    Raises:
        ValueError: if an argument is out of range.

    >>> inputs, targets = torch.tensor([[0.0], [8.0]]), torch.tensor([0, 1])
    >>> x, y = MixUp(alpha=0.2, classes=2).mixed(inputs, targets, torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    >>> x.tolist(), y.tolist()
    ([[6.0], [8.0]], [[0.25, 0.75], [0.0, 1.0]])
    """

    def __init__(self, alpha: float, *, classes: int) -> None:
        if not 0 < real(alpha, "alpha") < math.inf:
            raise ValueError(f"alpha must be a positive number; got {alpha}")
        self.alpha, self.classes = alpha, integer(classes, "classes", least=1)

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Every example mixed with another of the batch."""
        shares = torch.from_numpy(draws.beta(self.alpha, self.alpha, size=len(inputs)))
        return self.mixed(inputs, targets, shares, torch.from_numpy(draws.permutation(len(inputs))))

    def mixed(self, inputs: Tensor, targets: Tensor, shares: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Each example with the share λ that it keeps, ``(n,)``, and the number of its partner, ``(n,)``.

        Raises:
            TypeError: if the inputs are neither floating point numbers nor pixels.
            ValueError: if a target is no class.
        """
        if inputs.dtype == torch.uint8:
            inputs = inputs.float()
        if not inputs.is_floating_point():
            raise TypeError(f"mixup takes floating point numbers, or uint8 pixels; the inputs are {inputs.dtype}")
        if not targets.is_floating_point():
            targets = self._probabilities(targets).to(inputs.dtype)
        return _between(inputs, shares, partners), _between(targets, shares, partners)

    def _probabilities(self, targets: Tensor) -> Tensor:
        if targets.ndim != 1 or bool(((targets < 0) | (targets >= self.classes)).any()):
            raise ValueError(
                f"mixup takes targets (n,) that number {self.classes} classes from 0 on; got targets of shape "
                f"{tuple(targets.shape)} from {int(targets.min())} to {int(targets.max())}"
            )
        return functional.one_hot(targets.long(), self.classes)

    def __repr__(self) -> str:
        return f"MixUp({self.alpha}, classes={self.classes})"


def _between(tensor: Tensor, shares: Tensor, partners: Tensor) -> Tensor:
    share = shares.to(tensor.dtype).to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
    return share * tensor + (1 - share) * tensor[partners.to(tensor.device)]
