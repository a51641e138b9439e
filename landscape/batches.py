"""Batches: any nesting of tuples, lists and mappings of tensors that share their first dimension, the examples."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.identity import name_of

Batch = Any


def map_tensors(function: Callable[[Tensor], Any], batch: Batch) -> Any:
    """Rebuild ``batch`` with ``function`` applied to every tensor in it; everything else is passed through."""
    if isinstance(batch, Tensor):
        return function(batch)
    if type(batch) in (tuple, list):  # first, since these are most batches
        return type(batch)([map_tensors(function, part) for part in batch])
    if isinstance(batch, Mapping):
        items = {key: map_tensors(function, value) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return items
        rebuilt = copy.copy(batch)
        rebuilt.update(items)
        return rebuilt
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, part) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(function, part) for part in batch)
    return batch


def tensors(batch: Batch) -> list[Tensor]:
    """The tensors in ``batch``, depth first."""
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; tensors that are there stay what they are."""
    return map_tensors(lambda tensor: tensor.to(device), batch)


def num_examples(batch: Batch) -> int:
    """The number of examples in a batch: the first dimension that all its tensors share.

    Raises:
        ValueError: if there is no tensor with a first dimension, or if the first dimensions differ.
    """
    lengths = [tensor.shape[0] for tensor in tensors(batch) if tensor.ndim > 0]
    if not lengths:
        raise ValueError(f"a batch must contain a tensor with one row per example; got {type(batch).__name__}")
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the tensors of a batch must agree in their first dimension, the examples; got lengths {lengths}. "
            "Put what is not per example (a mask of the vocabulary, say) outside the batch."
        )
    return lengths[0]


def bytes_of_example(batch: Batch) -> int:
    """What one example takes in a batch, in all its tensors."""
    return sum(tensor[:1].nbytes for tensor in tensors(batch) if tensor.ndim > 0)


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Examples ``start`` to ``stop`` of a batch, as views."""
    return map_tensors(lambda tensor: tensor[start:stop] if tensor.ndim > 0 else tensor, batch)


def split(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Cut a batch into consecutive parts of the given sizes, as views.

    >>> [part.tolist() for part in split(torch.arange(5), [2, 2, 1])]
    [[0, 1], [2, 3], [4]]
    """
    parts, start = [], 0
    for size in sizes:
        parts.append(take(batch, start, start + size))
        start += size
    return parts


def shape_of_examples(batch: Batch) -> str:
    """What two batches must agree in to be put together: shapes of examples, and all that is not per example."""
    return repr(map_tensors(lambda t: (t.dtype, *t.shape[1:]) if t.ndim else t.item(), batch))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Put batches of one structure end to end; parts that lie so in memory are not copied.

    Raises:
        ValueError: if the structure or the shape of an example differs between the batches.
    """
    if len(batches) == 1:
        return batches[0]
    columns = [iter(tensors(batch)) for batch in batches]
    try:
        if len({len(tensors(batch)) for batch in batches}) > 1:
            raise RuntimeError("they differ in their number of tensors")
        return map_tensors(lambda first: _concatenate_column(first, [next(column) for column in columns]), batches[0])
    except (RuntimeError, StopIteration) as error:
        raise ValueError(
            f"examples of two batches cannot be put into one ({error}); pad all examples to one shape"
        ) from None


def _concatenate_column(first: Tensor, parts: list[Tensor]) -> Tensor:
    if first.ndim == 0:
        return first
    return _joined(first, parts) if _lie_end_to_end(parts) else torch.cat(parts)


def _lie_end_to_end(parts: list[Tensor]) -> bool:
    """Whether parts are what one tensor was cut into."""
    first, place = parts[0], parts[0].storage_offset()
    for part in parts:
        alike = part.dtype == first.dtype and part.shape[1:] == first.shape[1:] and part.is_contiguous()
        if not alike or part.storage_offset() != place or part.requires_grad:
            return False
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        place += part.numel()
    return True


def _joined(first: Tensor, parts: list[Tensor]) -> Tensor:
    rows = sum(len(part) for part in parts)
    flat = first.as_strided((sum(part.numel() for part in parts),), (1,), first.storage_offset())
    return flat.view(rows, *first.shape[1:])


def regroup(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The same examples in the same order, in parts of batches with ``size`` in all; only the last may have fewer.

    >>> [[part.tolist() for part in parts] for parts in regroup([torch.arange(3), torch.arange(3, 7)], 2)]
    [[[0, 1]], [[2], [3]], [[4, 5]], [[6]]]
    """
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        start, length = 0, num_examples(batch)
        while start < length:
            stop = min(length, start + size - count)
            waiting.append(take(batch, start, stop))
            count += stop - start
            start = stop
            if count == size:
                yield waiting
                waiting, count = [], 0
    if waiting:
        yield waiting


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
    size = num_examples(batch)

    def read(part: Any) -> None:
        if isinstance(part, Tensor) and part.ndim > 0:
            columns.append(_bytes_of_rows(part))
        elif isinstance(part, Mapping):
            for key, value in part.items():
                common.append(name_of(key))
                read(value)
        elif isinstance(part, tuple | list) and len(part) == size and not tensors(part):  # such as their names
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
