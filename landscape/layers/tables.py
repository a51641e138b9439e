"""Weights that are looked up or used as they are, with rows of their own for every micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from landscape.layers.linear import wide
from landscape.layers.sites import Site, UnsupportedError


class EmbeddingSite(Site):
    """A table of vectors: two positions share a gradient where they look up the same row.

    Vectors of places, which a model looks up once for all examples, are looked up for each of them.

    Args:
        name: what the model calls it.
        layer: the module.
        perturbed: the names of the weights that are perturbed.
    """

    def __init__(self, name: str, layer: nn.Embedding, perturbed: frozenset[str]) -> None:
        super().__init__(name, {"weight": layer.weight}, perturbed)
        if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
            raise UnsupportedError(f"max_norm, scale_grad_by_freq or sparse of {name} is set")
        self.layer = layer
        self._numbers_places = False  # whether it has been given rows that are no examples

    def for_each(self, rows: Tensor) -> Tensor:
        """What is looked up, for each example: places that all share come as ``(1, places)`` or ``(places,)``."""
        number = self.passes.num_examples
        if rows.ndim == 1:
            self._numbers_places |= len(rows) != number
            return rows.expand(number, -1) if self._numbers_places else rows
        return rows.expand(number, *rows.shape[1:]) if rows.ndim > 1 and len(rows) == 1 else rows

    def clear(self) -> None:
        """See :class:`Site`."""
        self.factored: list[tuple[Tensor, Tensor]] | None = None

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        shards, weight = self.passes.shards, self.layer.weight
        slope = wide(slope)
        pairs = [(i.flatten(1), d.flatten(1, -2)) for i, d in zip(shards.cut(inputs), shards.cut(slope), strict=True)]
        if self.alone and all(rows.shape[1] < len(weight) for rows, _ in pairs):
            self.factored = [(self._same(rows).to(d), d) for rows, d in pairs]
            return
        for stacks, (rows, d) in zip(self.passes.stacks, pairs, strict=True):
            table = d.new_zeros(len(rows), *weight.shape)
            if self.layer.padding_idx is not None:
                d = d * (rows != self.layer.padding_idx)[..., None]
            stacks.add(weight, table.scatter_add_(1, rows[..., None].expand_as(d), d))

    def bytes_of_squared(self, inputs: Tensor) -> int:
        """See :class:`Site`."""
        del inputs
        return 0

    def squared(self, inputs: Tensor, slope: Tensor, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Site`. A row that is looked up at several positions is taken in at each, by equal parts."""
        rows = inputs.reshape(len(inputs), -1)
        d = wide(slope).reshape(*rows.shape, -1)
        same = self._same(rows).to(d)
        parts = torch.bmm(same, d).square_() / same.sum(2, keepdim=True).clamp_(min=1)
        parts.mul_(signs.to(d)[:, None, None])
        weight = self.layer.weight
        yield weight, parts.new_zeros(weight.shape).index_add_(0, rows.flatten(), parts.flatten(0, 1))

    def _same(self, rows: Tensor) -> Tensor:
        """Which two positions of a micro-batch look up the same row, ``(number, tokens, tokens)``."""
        same = rows[:, :, None] == rows[:, None, :]
        return same if self.layer.padding_idx is None else same & (rows != self.layer.padding_idx)[:, :, None]

    def squares(self, run: int) -> Tensor | None:
        """See :class:`Site`."""
        if self.factored is None:
            return None
        same, d = self.factored[run]
        return (same * torch.bmm(d, d.mT)).flatten(1)

    def squares_of_rows(self) -> Tensor | int:
        """See :class:`Site`."""
        return 0 if self.factored is None else self.factored[0][1].square().sum((1, 2))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        shards, weight = self.passes.shards, self.layer.weight
        outputs = []
        for run, rows in enumerate(shards.cut(inputs)):
            if self.factored is not None:
                same, d = self.factored[run]
                shift = torch.bmm(same, d * self.passes.factors[run]).view(*rows.shape, -1)
                outputs.append(nn.functional.embedding(rows, weight, self.layer.padding_idx) + shift)
                continue
            copies = self.passes.stacks[run].spread(weight)
            if copies is None:
                outputs.append(nn.functional.embedding(rows, weight, self.layer.padding_idx))
                continue
            start = torch.arange(len(rows), device=rows.device).view(-1, *[1] * (rows.ndim - 1)) * len(weight)
            found = copies.flatten(0, 1)[rows + start]
            if self.layer.padding_idx is not None:  # its gradient is left out
                found = torch.where((rows == self.layer.padding_idx)[..., None], found.detach(), found)
            outputs.append(found)
        return shards.join(outputs).to(self.dtype)


class RawSite(Site):
    """A parameter that a module uses as it is: a copy for each example takes its place.

    It must be combined row by row with what has one for each example, as a class token or the vectors of places are.

    Args:
        name: what the model calls it.
        weight: the parameter; a first dimension of one is that of the examples, another is put before the rest.
    """

    def __init__(self, name: str, weight: Tensor) -> None:
        super().__init__(name, {"weight": weight}, frozenset(["weight"]))
        self.weight: Any = weight
        self.is_row = weight.ndim > 0 and len(weight) == 1

    def rows(self) -> Tensor:
        """One copy per example, in the first pass."""
        number = self.passes.shards.num_examples
        copies = self.weight.expand(number, *self.weight.shape[self.is_row :])
        return self.watched(copies, copies)

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        del inputs
        for stacks, d in zip(self.passes.stacks, self.passes.shards.cut(slope), strict=True):
            stacks.add(self.weight, d.sum(1).view(len(d), *self.weight.shape))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        del inputs
        blocks = []
        for stacks, (number, size) in zip(self.passes.stacks, self.passes.shards.runs, strict=True):
            copies = stacks.spread(self.weight)
            copies = self.weight.expand(number, *self.weight.shape) if copies is None else copies
            shape = self.weight.shape[self.is_row :]
            blocks.append(copies.view(number, 1, *shape).expand(number, size, *shape))
        return self.passes.shards.join(blocks)
