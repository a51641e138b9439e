"""The parts of a global batch that the processes of a group have loaded, each its own."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from landscape.batches import Batch, has_lists, map_tensors, num_examples, tensors

_PRIME = 16_777_213  # the largest one below 2²⁴, up to which whole numbers are themselves in single precision


def checksum(batch: Batch) -> Tensor:
    """A whole number below 2²⁴ that tells batches of other examples, or in another order, apart; a scalar tensor."""
    total: Tensor | int = 0
    for tensor in tensors(batch):
        rows = _words_of_rows(tensor if tensor.ndim > 0 else tensor[None]).sum(1)  # which may wrap around, as the total
        places = torch.arange(1, len(rows) + 1, device=rows.device)
        total = total * 31 + (rows * places).sum()
    return torch.as_tensor(total) % _PRIME


def gathered(batch: Batch, from_all: Callable[[Tensor], list[Tensor]]) -> Batch:
    """See ``Processes.gathered``; two rounds of messages, of a few numbers and of the examples.

    Args:
        batch: this process's part.
        from_all: this process's tensor -> those of all, which are of one shape, in the order of their ranks.

    Raises:
        ValueError: if the parts differ in more than their numbers of examples, or have lists of what are no tensors.
    """
    own = num_examples(batch)
    if has_lists(batch):
        raise ValueError("processes exchange tensors, and no lists of texts or the like; leave them out of the batch")
    columns = [tensor for tensor in tensors(batch) if tensor.ndim > 0]
    rows = torch.cat([_bytes_of_rows(column) for column in columns], dim=1)  # (own, bytes of an example)
    layout = [(str(column.dtype), tuple(column.shape[1:])) for column in columns]
    told = torch.tensor([own, zlib.crc32(repr(layout).encode())], device=rows.device)
    lengths, layouts = torch.stack(from_all(told)).T.tolist()
    if len(set(layouts)) > 1:
        raise ValueError(
            f"the parts of a batch cannot be put together: on this process an example is of {layout}, on another of "
            "something else. Pad all examples to one shape"
        )
    sent = rows.new_zeros(max(lengths), rows.shape[1])
    sent[:own] = rows
    there = torch.arange(len(sent), device="cpu")[:, None] < torch.tensor(lengths, device="cpu")  # (longest, number)
    dealt = torch.stack(from_all(sent), dim=1)[there.to(rows.device)]  # (all examples, bytes)
    pieces = iter(torch.split(dealt, [_width(column) for column in columns], dim=1))

    def whole(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0:
            return tensor
        return next(pieces).contiguous().view(tensor.dtype).reshape(len(dealt), *tensor.shape[1:])

    return map_tensors(whole, batch)


def _bytes_of_rows(tensor: Tensor) -> Tensor:
    """``(examples, bytes of one)``."""
    flat = tensor.detach().reshape(len(tensor), math.prod(tensor.shape[1:])).contiguous()
    return flat.view(torch.uint8)


def _words_of_rows(tensor: Tensor) -> Tensor:
    """``(examples, words)``, of eight bytes each, which are summed thirty times as fast as single ones."""
    rows = _bytes_of_rows(tensor)
    if rows.shape[1] % 8 or rows.storage_offset() % 8 or rows.stride(0) % 8:
        padded = rows.new_zeros(len(rows), max(1, -(-rows.shape[1] // 8)) * 8)
        padded[:, : rows.shape[1]] = rows
        rows = padded
    return rows.view(torch.int64)


def _width(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:]) * tensor.element_size()
