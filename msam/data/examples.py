"""Examples as tensors, and the order that training takes them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from landscape.batches import Batch, map_tensors, take


@dataclass(frozen=True)
class Examples:
    """Inputs, ``(n, ...)`` or any nesting of tuples, lists and mappings of such tensors, and targets ``(n, ...)``."""

    inputs: Batch = field(repr=False)
    targets: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Examples:
        """The same examples on a device."""
        return Examples(map_tensors(lambda tensor: tensor.to(device), self.inputs), self.targets.to(device))

    def taken(self, chosen: Tensor) -> Examples:
        """The examples with the given numbers, ``(k,)``, in that order."""
        return Examples(map_tensors(lambda t: t[chosen.to(t.device)], self.inputs), self.targets[chosen])

    def batches(self, size: int, *, order: Tensor | None = None) -> Iterator[tuple[Batch, Tensor]]:
        """Consecutive batches, the last with what is left.

        Args:
            size: examples per batch.
            order: a permutation to take the examples in, ``(n,)``; as they are when left out.
        """
        for start in range(0, len(self), size):
            if order is None:
                yield take(self.inputs, start, start + size), self.targets[start : start + size]
            else:
                some = self.taken(order[start : start + size].to(self.targets.device))
                yield some.inputs, some.targets


def shuffled(number: int, *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation ``(number,)`` that depends on seed and epoch alone."""
    source = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.randperm(number, generator=torch.Generator().manual_seed(int(source >> 1)))
