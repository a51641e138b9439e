"""The losses of many shards, from the outputs for all of their examples."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from landscape.batches import Batch, map_tensors, tensors
from landscape.terms import Definition, Term

Found = tuple[Tensor, Tensor]


class ShardLosses:
    """L_S and d_S of shards of one size, by vectorising the loss, or shard by shard where it cannot be.

    Args:
        definition: of the loss and its denominator.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._vectorises = True

    def of(self, outputs: Any, targets: Any, number: int, like: Tensor) -> Found:
        """Losses and denominators, ``(number,)`` each; where nothing is counted the loss means nothing.

        Args:
            outputs: of all examples, those of a shard together.
            targets: likewise.
            number: of shards.
            like: for dtype and device.
        """
        pair = map_tensors(lambda tensor: stacked(tensor, number), (outputs, targets))
        if self._vectorises and number > 1:
            try:
                return self._at_once(pair, like)
            except Exception:  # whatever cannot be vectorised; a loss that fails by itself fails below
                self._vectorises = False
        found = [self.one(map_tensors(partial(_entry, index), pair), like) for index in range(number)]
        losses, counts = zip(*found, strict=True)
        return torch.stack(losses), torch.stack(counts)

    def one(self, pair: tuple[Any, Any], like: Tensor) -> Found:
        """Loss and denominator of one shard, or of any other examples."""
        outputs, targets = pair
        term = Term(self.definition, None)
        term.targets = targets
        count = self.definition.denominator(outputs, targets)
        return term.loss_of_outputs(outputs), torch.as_tensor(count, dtype=like.dtype, device=like.device)

    def _at_once(self, pair: Batch, like: Tensor) -> Found:
        flat = tensors(pair)

        def one(parts: list[Tensor]) -> Found:
            rest = iter(parts)
            loss, count = self.one(map_tensors(lambda _: next(rest), pair), like)
            return loss, count

        with warnings.catch_warnings():  # operations that are looped over
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            found: Found = vmap(one, in_dims=([0 if tensor.ndim else None for tensor in flat],))(flat)
        return found


def _entry(index: int, tensor: Tensor) -> Tensor:
    return tensor[index] if tensor.ndim else tensor


def stacked(tensor: Tensor, number: int) -> Tensor:
    """``(number · size, ...)`` to ``(number, size, ...)``; what has no rows stays."""
    return tensor if tensor.ndim == 0 else tensor.reshape(number, -1, *tensor.shape[1:])
