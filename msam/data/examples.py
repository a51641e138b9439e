"""Examples as tensors, and the order that training takes them in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.batches import Batch, moved, rows, take, tensors
from landscape.memory import fits
from msam.data.fingerprints import AT_A_TIME, fingerprint_of


@dataclass(frozen=True)
class Examples:
    """Examples in their order.

    Attributes:
        inputs: ``(n, ...)``, or any nesting of tuples, lists and mappings of such tensors.
        targets: ``(n, ...)``.
        device: where batches go when they are taken; None where the examples are.
    """

    inputs: Batch = field(repr=False)
    targets: Tensor = field(repr=False)
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the examples are, see :func:`msam.data.fingerprints.fingerprint_of`; found once.

        Its ``content`` is the ``data`` in the manifest of what is measured on them.
        """
        return fingerprint_of(self.batches(AT_A_TIME))

    def to(self, device: torch.device) -> Examples:
        """The same examples for a device: there, if they fit; else they stay, and each batch goes when it is taken."""
        if not fits([self.inputs, self.targets], device):
            return dataclasses.replace(self, device=device)
        return Examples(*moved((self.inputs, self.targets), device))

    def taken(self, chosen: Tensor) -> Examples:
        """The examples with the given numbers, ``(k,)``, in that order."""
        inputs, targets = rows((self.inputs, self.targets), chosen)
        return Examples(inputs, targets, self.device)

    def first_not_finite(self) -> int | None:
        """The first example with a number that is infinite or none; None where there is no such example."""
        found = []
        for tensor in tensors((self.inputs, self.targets)):
            if tensor.ndim > 0 and tensor.is_floating_point():
                wrong = (~torch.isfinite(tensor)).reshape(len(tensor), math.prod(tensor.shape[1:])).any(dim=1)
                found += wrong.nonzero()[:1].flatten().tolist()
        return min(found, default=None)

    def batches(self, size: int, *, order: Tensor | None = None) -> Iterator[tuple[Batch, Tensor]]:
        """Consecutive batches, the last with what is left.

        Args:
            size: examples per batch.
            order: a permutation to take the examples in, ``(n,)``; as they are when left out.
        """
        for start in range(0, len(self), size):
            if order is None:
                some = take((self.inputs, self.targets), start, start + size)
            else:
                chosen = self.taken(order[start : start + size].to(self.targets.device))
                some = (chosen.inputs, chosen.targets)
            yield some if self.device is None else moved(some, self.device)


def shuffled(number: int, *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation ``(number,)`` that depends on seed and epoch alone."""
    source = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.randperm(number, generator=torch.Generator().manual_seed(int(source >> 1)), device="cpu")
