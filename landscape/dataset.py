"""The data of an objective: batches as they were when it was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from landscape import checks
from landscape.arguments import integer
from landscape.batches import Batch, map_tensors, num_examples, regroup, rows, split, tensors
from landscape.chunks import merged
from landscape.fingerprint import Fingerprint
from landscape.memory import SHARE_OF_DATA, available_bytes


class DataSet:
    """Batches that nobody else changes, and what they are.

    Args:
        batches: on the device where they are used, or on another, from which they go there when they are.
        fingerprint: of them, where it is known.

    Attributes:
        batches: views of ``pieces``.
        pieces: the same examples, in as few pieces as their shapes allow when they were read.
    """

    def __init__(self, batches: Sequence[Batch], *, fingerprint: Fingerprint | None = None) -> None:
        self.batches = list(batches)
        self.pieces = self.batches
        self._fingerprint = fingerprint

    @classmethod
    def read(cls, data: Iterable[Batch], device: torch.device) -> DataSet:
        """Copies of all batches on a device; two passes over the data must give the same examples.

        Data that would take too much of the memory there are not copied, and stay where they are.

        Raises:
            ValueError: if two passes do not, or there is no example.
        """
        copies = _copies(data, device)
        found = [map_tensors(Tensor.detach, batch) for batch in data] if copies is None else copies
        batches = [batch for batch in found if num_examples(batch) > 0]  # a mean over no example is not a number
        fingerprint = Fingerprint.of(batches)
        checks.require_same_data(fingerprint, Fingerprint.of(data))
        pieces, sizes = merged(batches), [num_examples(batch) for batch in batches]
        read = cls([], fingerprint=fingerprint)
        for piece in pieces:
            number = 0
            while sum(sizes[:number]) < num_examples(piece):
                number += 1
            read.batches += split(piece, sizes[:number])
            sizes = sizes[number:]
        read.pieces = pieces
        return read

    def shards(self, size: int) -> Iterator[list[Batch]]:
        """Consecutive parts of ``size`` examples each, in the order of the data; the last has what is left.

        Each is in as few batches as the shapes of its examples allow.

        Raises:
            TypeError: if the size is not an integer.
            ValueError: if the size is not between 1 and the number of examples.
        """
        size = integer(size, "the size of a shard")
        if not 1 <= size <= self.num_examples:
            raise ValueError(
                f"a shard must have 1 to {self.num_examples} examples, all there are; got {size}. Give another "
                "size of micro-batches."
            )
        return (merged(parts) for parts in regroup(self.batches, size))

    def sample(self, size: int, *, seed: int) -> list[Batch]:
        """Examples drawn without replacement, in the order they were drawn; one batch for each shape of them.

        Raises:
            TypeError: if size or seed is not an integer.
            ValueError: if the size is not between 1 and the number of examples.
        """
        size = integer(size, "the size of a sample")
        if not 1 <= size <= self.num_examples:
            raise ValueError(f"a sample must have 1 to {self.num_examples} examples, all there are; got {size}")
        numbers = [num_examples(piece) for piece in self.pieces]
        generator = torch.Generator().manual_seed(integer(seed, "seed"))
        chosen = torch.randperm(sum(numbers), generator=generator, device="cpu")[:size]
        batches, start = [], 0
        for piece, number in zip(self.pieces, numbers, strict=True):
            places = chosen[(chosen >= start) & (chosen < start + number)] - start
            start += number
            if len(places):
                batches.append(rows(piece, places))
        return batches

    @property
    def num_examples(self) -> int:
        """The number of examples in all."""
        return sum(num_examples(batch) for batch in self.batches)

    @property
    def fingerprint(self) -> Fingerprint:
        """What the examples are, and in which order."""
        if self._fingerprint is None:
            self._fingerprint = Fingerprint.of(self.batches)
        return self._fingerprint


def _copies(data: Iterable[Batch], device: torch.device) -> list[Batch] | None:
    """Copies of all batches on a device; None where they would take too much of it."""
    room = SHARE_OF_DATA * available_bytes(device)
    copies = []
    for batch in data:
        checks.require_numbers(("a tensor of the data", tensor) for tensor in tensors(batch))
        num_examples(batch)  # which refuses what is no batch
        room -= sum(tensor.nbytes for tensor in tensors(batch))
        if room < 0:
            return None
        copies.append(map_tensors(lambda tensor: tensor.detach().to(device, copy=True), batch))
    return copies
