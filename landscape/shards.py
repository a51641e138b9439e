"""The consecutive micro-batches of a batch, cut out of tensors all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.batches import Batch, rows


@dataclass(frozen=True)
class Shards:
    """The consecutive micro-batches of a batch, as runs of equal size.

    Attributes:
        runs: (number of micro-batches, examples in each), in the order of the batch.
        interleaved: whether the rows of a run have been put in another order: the first example of each micro-batch,
            then the second of each. One image of each is then one image with so many times the channels, as grouped
            convolutions want it, without a copy.

    >>> Shards.of([2, 2, 1]).runs
    ((2, 2), (1, 1))
    """

    runs: tuple[tuple[int, int], ...]
    interleaved: bool = False

    @classmethod
    def of(cls, sizes: Sequence[int], *, interleaved: bool = False) -> Shards:
        """From the number of examples of each micro-batch."""
        runs: list[tuple[int, int]] = []
        for size in sizes:
            if runs and runs[-1][1] == size:
                runs[-1] = (runs[-1][0] + 1, size)
            else:
                runs.append((1, size))
        return cls(tuple(runs), interleaved)

    @property
    def num_examples(self) -> int:
        """The size of the batch."""
        return sum(number * size for number, size in self.runs)

    def arranged(self, batch: Batch) -> Batch:
        """The batch with its rows in this order."""
        if not self.interleaved or all(number == 1 or size == 1 for number, size in self.runs):
            return batch
        places = torch.arange(self.num_examples, device="cpu")
        parts, start = [], 0
        for number, size in self.runs:
            stop = start + number * size
            parts.append(places[start:stop].view(number, size).T.flatten())
            start = stop
        order = torch.cat(parts)
        return rows(batch, order)

    @property
    def is_one_run(self) -> bool:
        """Whether all micro-batches have one size and their examples lie together."""
        return len(self.runs) == 1 and not self.interleaved

    def rows(self, tensor: Tensor) -> Sequence[Tensor]:
        """``(examples, ..., width)`` to one ``(number, tokens, width)`` for each run."""
        if self.is_one_run:
            return (tensor.reshape(self.runs[0][0], -1, tensor.shape[-1]),)
        return [block.flatten(1, -2) if block.ndim > 3 else block for block in self._cut(tensor)]

    def cut(self, tensor: Tensor) -> Iterable[Tensor]:
        """``(examples, ...)`` to one ``(number, size, ...)`` for each run."""
        if self.is_one_run:
            return (tensor.reshape(*self.runs[0], *tensor.shape[1:]),)
        return self._cut(tensor)

    def _cut(self, tensor: Tensor) -> Iterator[Tensor]:
        start = 0
        for number, size in self.runs:
            stop = start + number * size
            rows = tensor if number * size == tensor.shape[0] else tensor[start:stop]
            if self.interleaved:
                yield rows.reshape(size, number, *tensor.shape[1:]).transpose(0, 1)
            else:
                yield rows.reshape(number, size, *tensor.shape[1:])
            start = stop

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """The reverse of :meth:`cut`."""
        flat = [(block.transpose(0, 1) if self.interleaved else block).flatten(0, 1) for block in blocks]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def fold(self, tensor: Tensor) -> Iterator[Tensor]:
        """``(examples, channels, ...)`` to one ``(size, number · channels, ...)`` for each run."""
        for block in self.cut(tensor):
            yield block.transpose(0, 1).flatten(1, 2)

    def unfold(self, blocks: Sequence[Tensor]) -> Tensor:
        """The reverse of :meth:`fold`."""
        apart = [
            block.reshape(len(block), number, -1, *block.shape[2:]).transpose(0, 1)
            for block, (number, _) in zip(blocks, self.runs, strict=True)
        ]
        return self.join(apart)

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """One value per micro-batch, ``(shards, ...)``, to one ``(number, ...)`` for each run."""
        return torch.split(values, [number for number, _ in self.runs])
