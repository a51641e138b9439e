"""Batches: any nesting of tuples, lists and mappings of tensors that share their first dimension, the examples.

A list or tuple of what are no tensors, such as texts, has an entry for each example.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = Any


def map_tensors(function: Callable[[Tensor], Any], batch: Batch) -> Any:
    """Rebuild ``batch`` with ``function`` applied to every tensor in it; everything else is passed through."""
    if isinstance(batch, Tensor):
        return function(batch)
    return _rebuilt(batch, functools.partial(map_tensors, function))


def map_columns(function: Callable[[Any], Any], batch: Batch) -> Any:
    """The same with ``function`` applied to all that has a part for each example: tensors, and lists of other things.

    >>> map_columns(lambda column: column[:1], {"x": torch.arange(2), "texts": ["a", "b"], "task": "c"})
    {'x': tensor([0]), 'texts': ['a'], 'task': 'c'}
    """
    if isinstance(batch, Tensor) or is_column(batch):
        return function(batch)
    return _rebuilt(batch, functools.partial(map_columns, function))


def is_column(part: Any) -> bool:
    """Whether something is a list of an entry per example: one that holds a tensor is a part of the structure."""
    if not isinstance(part, tuple | list) or not part or isinstance(part[0], Tensor) or hasattr(part, "_fields"):
        return False  # most batches are known by their first part
    return not all(entry is None for entry in part) and not tensors(part)


def _rebuilt(batch: Batch, visit: Callable[[Batch], Any]) -> Any:
    """``batch`` with ``visit`` applied to its parts, if it has any."""
    if type(batch) in (tuple, list):  # first, since these are most batches
        return type(batch)([visit(part) for part in batch])
    if isinstance(batch, Mapping):
        items = {key: visit(value) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return items
        rebuilt = copy.copy(batch)
        rebuilt.update(items)
        return rebuilt
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(visit(part) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(visit(part) for part in batch)
    return batch


def tensors(batch: Batch) -> list[Tensor]:
    """The tensors in ``batch``, depth first."""
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def columns(batch: Batch) -> list[Any]:
    """All that has a part for each example in ``batch``, depth first: tensors, and lists of other things."""
    found: list[Any] = []
    map_columns(found.append, batch)
    return found


def has_lists(batch: Batch) -> bool:
    """Whether some of the batch is per example and no tensor."""
    return not all(isinstance(column, Tensor) for column in columns(batch))


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; tensors that are there stay what they are."""
    return map_tensors(lambda tensor: tensor.to(device), batch)


def num_examples(batch: Batch) -> int:
    """The number of examples in a batch: the first dimension that all its tensors share.

    Raises:
        ValueError: if there is no tensor with a first dimension, if the first dimensions differ, if a tensor is sparse
            or nested, or if there is a list that has not an entry for each example.
    """
    found = tensors(batch)
    for tensor in found:
        if tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"a tensor of a batch is {kind}, of which no part can be taken; make it dense, and pad it")
    lengths = [tensor.shape[0] for tensor in found if tensor.ndim > 0]
    if not lengths:
        raise ValueError(f"a batch must contain a tensor with one row per example; got {type(batch).__name__}")
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the tensors of a batch must agree in their first dimension, the examples; got lengths {lengths}. "
            "Put what is not per example (a mask of the vocabulary, say) outside the batch."
        )
    _require_entries(batch, lengths[0])
    return lengths[0]


def _require_entries(batch: Batch, size: int) -> None:
    if isinstance(batch, Tensor) or (type(batch) in (tuple, list) and all(isinstance(part, Tensor) for part in batch)):
        return
    if isinstance(batch, np.ndarray) and batch.ndim > 0:
        raise ValueError(f"a batch holds an array of numpy, of shape {batch.shape}; make it a tensor: torch.as_tensor")
    if not is_column(batch):
        _rebuilt(batch, lambda part: _require_entries(part, size))
    elif len(batch) != size or any(isinstance(entry, tuple | list | np.ndarray) for entry in batch):
        shown = repr(batch)
        raise ValueError(
            f"a list in a batch must have one entry per example, {size} here, which is no list itself; got "
            f"{len(batch)} entries, {shown if len(shown) < 60 else f'{shown[:60]}...'}. Put what is not per example "
            "outside the batch."
        )


def bytes_of_example(batch: Batch) -> int:
    """What one example takes in a batch, in all its tensors."""
    return sum(tensor[:1].nbytes for tensor in tensors(batch) if tensor.ndim > 0)


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Examples ``start`` to ``stop`` of a batch, as views."""
    return map_columns(lambda column: column[start:stop] if _has_rows(column) else column, batch)


def rows(batch: Batch, places: Tensor) -> Batch:
    """The examples of a batch at some places, ``(k,)``, in that order.

    >>> rows((torch.arange(3), ["a", "b", "c"]), torch.tensor([2, 0]))
    (tensor([2, 0]), ['c', 'a'])
    """

    def of(column: Any) -> Any:
        if not isinstance(column, Tensor):
            return type(column)([column[place] for place in places.tolist()])
        # much faster than [places]
        return column.index_select(0, places.to(column.device)) if column.ndim > 0 else column

    return map_columns(of, batch)


def _has_rows(column: Any) -> bool:
    return not isinstance(column, Tensor) or column.ndim > 0


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

    def of(column: Any) -> Any:
        if not isinstance(column, Tensor):
            return type(column)
        return (column.dtype, *column.shape[1:]) if column.ndim else column.item()

    return repr(map_columns(of, batch))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Put batches of one structure end to end; parts that lie so in memory are not copied.

    Raises:
        ValueError: if the structure or the shape of an example differs between the batches.
    """
    if len(batches) == 1:
        return batches[0]
    parts = [columns(batch) for batch in batches]
    try:
        if len({tuple(isinstance(column, Tensor) for column in part) for part in parts}) > 1:
            raise RuntimeError("they differ in their tensors and lists")
        rest = [iter(part) for part in parts]
        return map_columns(lambda first: _concatenate_column(first, [next(part) for part in rest]), batches[0])
    except (RuntimeError, StopIteration) as error:
        raise ValueError(
            f"examples of two batches cannot be put into one ({error}); pad all examples to one shape"
        ) from None


def _concatenate_column(first: Any, parts: list[Any]) -> Any:
    if not isinstance(first, Tensor):
        return type(first)([entry for part in parts for entry in part])
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
