"""What a data set contains, as a hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.batches import Batch, is_column, num_examples
from landscape.identity import name_of


class Fingerprint:
    """What a data set contains, as two short hashes: one that ignores the order of the examples and one that does not.

    Two measurements are of the same data when their ``content`` agrees; shards of consecutive examples are the
    same only when ``order`` agrees too.
    """

    def __init__(self) -> None:
        self.examples: Counter[bytes] = Counter()
        self._order = hashlib.blake2b(digest_size=16)

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Fingerprint:
        """The fingerprint of all examples of the batches."""
        fingerprint = cls()
        for batch in batches:
            fingerprint.add(batch)
        return fingerprint

    def add(self, batch: Batch) -> None:
        """Take in the examples of one batch, each with all its tensors and what the batch says for all of them."""
        columns, common = _rows_and_common(batch)
        for row in zip(*columns, strict=True):
            digest = hashlib.blake2b(b"".join(row) + common, digest_size=16).digest()
            self.examples[digest] += 1
            self._order.update(digest)

    @property
    def content(self) -> str:
        """A hash of the multiset of examples."""
        total = hashlib.blake2b(digest_size=16)
        for digest in sorted(self.examples.elements()):
            total.update(digest)
        return total.hexdigest()

    @property
    def order(self) -> str:
        """A hash of the sequence of examples."""
        return self._order.hexdigest()


def _rows_and_common(batch: Batch) -> tuple[list[list[bytes]], bytes]:
    """The bytes of each row, column by column, and what is one for all rows: keys, numbers, tensors without rows."""
    columns: list[list[bytes]] = []
    common: list[str] = []
    num_examples(batch)

    def read(part: Any) -> None:
        if isinstance(part, Tensor) and part.ndim > 0:
            columns.append(_bytes_of_rows(part))
        elif isinstance(part, Mapping):
            for key, value in part.items():
                common.append(name_of(key))
                read(value)
        elif is_column(part):  # such as their names
            columns.append([name_of(entry).encode() for entry in part])
        elif isinstance(part, tuple | list):
            for entry in part:
                read(entry)
        else:
            common.append(name_of(part))

    read(batch)
    return columns, "; ".join(common).encode()


def _bytes_of_rows(tensor: Tensor) -> list[bytes]:
    rows = tensor.detach().cpu().contiguous()
    header = f"{rows.dtype}{tuple(rows.shape[1:])}".encode()
    raw = rows.view(len(rows), -1).view(torch.uint8).numpy() if rows.numel() else [b""] * len(rows)
    return [header + bytes(row) for row in raw]
