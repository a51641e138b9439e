"""Ways of finding the rises of shards: each gives the same numbers within rounding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.batches import Batch
from landscape.layers import UnsupportedError
from landscape.rises.rows import Run


@dataclass(frozen=True)
class Rises:
    """What was found of the shards of one run.

    Attributes:
        rises: ``(number, radii)``.
        weights: ``(number,)``, d_i; the rises of a shard without weight mean nothing.
        losses: ``(number,)``, at w.
        doubtful: ``(number,)``, those that rounding may have spoilt; None where it cannot have.
    """

    rises: Tensor
    weights: Tensor
    losses: Tensor
    doubtful: Tensor | None = None


class Pass(ABC):
    """What a way knows of the examples of one portion.

    Attributes:
        num_bytes: of the copies of weights that the last run took.
    """

    num_bytes: int = 0

    @abstractmethod
    def rises(self, run: Run) -> Rises:
        """Of the shards of a run, which lies in the portion."""


class Way(ABC):
    """One way of finding rises."""

    words: str

    @abstractmethod
    def pays(self, size: int) -> bool:
        """Whether shards of a size are found more quickly than one after another, by a rule and not by the clock."""

    @abstractmethod
    def over(self, batch: Batch, start: int) -> Pass:
        """Look at the examples of a portion, the first of which is number ``start`` of the data."""


def require_equal(found: Rises, index: int, expected: Rises) -> None:
    """Compare a shard with the same one by its definition.

    Raises:
        UnsupportedError: if they differ by more than rounding does, or there is nothing finite to compare.
    """
    eps = torch.finfo(found.losses.dtype).eps
    for rise, known in zip(found.rises[index].tolist(), expected.rises[0].tolist(), strict=True):
        size = max(1.0, abs(float(expected.losses[0])))
        if not abs(rise - known) <= 10 * eps**0.5 * abs(known) + 1e3 * eps * size:  # also where one is not finite
            raise UnsupportedError(f"the rise of a shard is {known:.8g}, and {rise:.8g} was found")
    weight, known = float(found.weights[index]), float(expected.weights[0])
    if not abs(weight - known) <= 1e3 * eps * known:
        raise UnsupportedError(f"a shard counts {known:.8g}, and {weight:.8g} was found")
