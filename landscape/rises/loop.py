"""The rises of shards by their definition, one shard after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.batches import Batch, num_examples
from landscape.memory import is_out_of_memory
from landscape.objective import Objective
from landscape.perturbations import Perturbation
from landscape.products import loss_and_slopes
from landscape.rises.ways import Rises
from landscape.terms import Term


class OneAfterAnother:
    """The definition: the gradient of a shard, and its loss at w + ε.

    Args:
        objective: whose shards they are.
        perturbations: that are measured; those after the first are the first at other radii.
    """

    words = "one after another"

    def __init__(self, objective: Objective, perturbations: Sequence[Perturbation]) -> None:
        self.objective = objective
        self.perturbations = perturbations
        self._blocks = objective.space.split(objective.weights)
        self._needs_gradient = perturbations[0].needs_gradient

    def rise(self, batches: Sequence[Batch], number: int) -> Rises:
        """Of one shard, given its examples, a batch for each shape of them, and its number."""
        if len(batches) == 1 and num_examples(batches[0]) <= self.objective.work.largest_gradient:
            try:
                return self._rises(_AtOnce(Term(self.objective.work.definition, batches[0]), self._blocks), number)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        return self.rise_of(self.objective.part(batches), number)

    def rise_of(self, shard: Objective, number: int) -> Rises:
        """Of one shard, given as an objective, whose chunks processes may share."""
        return self._rises(_InChunks(shard, self.objective.weights), number)

    def _rises(self, shard: _Shard, number: int) -> Rises:
        loss, gradient, weight = shard.look(with_gradient=self._needs_gradient)

        def slopes(epsilon: list[Tensor] | None) -> list[Tensor]:
            return gradient if epsilon is None and gradient is not None else shard.slopes(epsilon)

        found = [0.0] * len(self.perturbations)
        for place, perturbation in enumerate(self.perturbations if weight else ()):
            epsilon = perturbation.search(self._blocks, slopes, key=(number,))
            with torch.no_grad():
                found[place] = shard.loss(epsilon).item() - loss.item()
        rises = torch.tensor([found], dtype=torch.float64, device="cpu")
        weights = torch.tensor([weight], dtype=torch.float64, device="cpu")
        return Rises(rises, weights, (loss if weight else torch.zeros_like(loss)).reshape(1))


class _Shard(ABC):
    """The loss of one shard near w, and its gradients in blocks."""

    @abstractmethod
    def look(self, *, with_gradient: bool) -> tuple[Tensor, list[Tensor] | None, float]:
        """Loss and gradient at w, and what the loss is divided by."""

    @abstractmethod
    def slopes(self, epsilon: list[Tensor] | None) -> list[Tensor]:
        """The gradient at w + ε."""

    @abstractmethod
    def loss(self, epsilon: list[Tensor]) -> Tensor:
        """The loss at w + ε."""


class _AtOnce(_Shard):
    """All examples together, and weights in blocks, so that a small shard takes little besides its passes."""

    def __init__(self, term: Term, blocks: list[Tensor]) -> None:
        self.term = term
        self.blocks = blocks

    def look(self, *, with_gradient: bool) -> tuple[Tensor, list[Tensor] | None, float]:
        gradient = None
        if with_gradient:
            loss, gradient = loss_and_slopes(self.term.loss_of, self.blocks)
        else:
            with torch.no_grad():
                loss = self.term.loss_of(self.blocks)
        return loss, gradient, float(self.term.count)

    def slopes(self, epsilon: list[Tensor] | None) -> list[Tensor]:
        return loss_and_slopes(self.term.loss_of, self.blocks if epsilon is None else self._moved(epsilon))[1]

    def loss(self, epsilon: list[Tensor]) -> Tensor:
        return self.term.loss_of(self._moved(epsilon))

    def _moved(self, epsilon: list[Tensor]) -> list[Tensor]:
        return list(torch._foreach_add(self.blocks, epsilon))


class _InChunks(_Shard):
    """Chunk after chunk, within memory, by as many processes as share them."""

    def __init__(self, shard: Objective, w: Tensor) -> None:
        self.shard = shard
        self.w = w

    def look(self, *, with_gradient: bool) -> tuple[Tensor, list[Tensor] | None, float]:
        if not with_gradient:
            return self.shard.loss(self.w), None, self.shard.weight
        loss, gradient = self.shard.loss_and_gradient(self.w)
        return loss, self.shard.space.split(gradient), self.shard.weight

    def slopes(self, epsilon: list[Tensor] | None) -> list[Tensor]:
        return self.shard.space.split(self.shard.gradient(self.w if epsilon is None else self._moved(epsilon)))

    def loss(self, epsilon: list[Tensor]) -> Tensor:
        return self.shard.loss(self._moved(epsilon))

    def _moved(self, epsilon: list[Tensor]) -> Tensor:
        space = self.shard.space
        return space.flatten(dict(zip(space.names, epsilon, strict=True))).add_(self.w)
