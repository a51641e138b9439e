"""The consecutive micro-batches of a batch, cut out of tensors all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shards:
    """The consecutive micro-batches of a batch, as runs of equal size.

    Attributes:
        runs: (number of micro-batches, examples in each), in the order of the batch.

    >>> Shards.of([2, 2, 1]).runs
    ((2, 2), (1, 1))
    """

    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Shards:
        """From the number of examples of each micro-batch."""
        runs: list[tuple[int, int]] = []
        for size in sizes:
            if runs and runs[-1][1] == size:
                runs[-1] = (runs[-1][0] + 1, size)
            else:
                runs.append((1, size))
        return cls(tuple(runs))

    @property
    def num_examples(self) -> int:
        """The size of the batch."""
        return sum(number * size for number, size in self.runs)

    def cut(self, tensor: Tensor) -> Iterator[Tensor]:
        """``(examples, ...)`` to one ``(number, size, ...)`` for each run."""
        start = 0
        for number, size in self.runs:
            stop = start + number * size
            yield tensor[start:stop].reshape(number, size, *tensor.shape[1:])
            start = stop

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """The reverse of :meth:`cut`."""
        flat = [block.flatten(0, 1) for block in blocks]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """One value per micro-batch, ``(shards, ...)``, to one ``(number, ...)`` for each run."""
        return torch.split(values, [number for number, _ in self.runs])

    def scales(self, like: Tensor) -> Tensor:
        """b / |S_i|, ``(shards,)``: turns a gradient of the batch's mean loss into that of the micro-batch's."""
        sizes = [size for number, size in self.runs for _ in range(number)]
        return self.num_examples / torch.tensor(sizes, dtype=like.dtype, device=like.device)
