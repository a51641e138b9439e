"""Graphs in which a model computes parts of itself anew in backward passes, as ``torch.utils.checkpoint`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

RECOMPUTES = (
    "the model computes parts of itself anew in backward passes (torch.utils.checkpoint), when the weights that are "
    "asked about are no longer in it. Switch that off for measuring; chunk_size= bounds the memory."
)


def nodes_of(value: Tensor) -> Iterator[Any]:
    """The operations that a value was computed by, and the places of the leaves that take gradients."""
    waiting, seen = [value.grad_fn], set[object]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [parent for parent, _ in node.next_functions]


def hides_weights(value: Tensor) -> bool:
    """Whether there is a reentrant checkpoint, whose weights have no gradient unless ``backward`` is called."""
    return any(node.name().startswith("CheckpointFunction") for node in nodes_of(value))
