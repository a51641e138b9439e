"""The rises of shards by their definition, one shard after another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.batches import Batch
from landscape.objective import Objective
from landscape.perturbations import Perturbation
from landscape.rises.ways import Rises


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

    def rise(self, batch: Batch, number: int) -> Rises:
        """Of one shard, given its examples and its number."""
        return self.rise_of(self.objective.part([batch]), number)

    def rise_of(self, shard: Objective, number: int) -> Rises:
        """Of one shard, given as an objective, whose chunks processes may share."""
        w = self.objective.weights
        probed = _Probed(shard, w, with_gradient=self.perturbations[0].needs_gradient)
        found = []
        if shard.weight != 0:
            for perturbation in self.perturbations:
                epsilon = perturbation.search(shard.space.split(w), probed.slopes, key=(number,))
                rise = shard.loss(probed.at(epsilon)).item() - probed.loss.item()
                found.append(rise if probed.has_length else math.nan)
        rises = torch.tensor([found or [0.0] * len(self.perturbations)], dtype=torch.float64, device="cpu")
        weights = torch.tensor([shard.weight], dtype=torch.float64, device="cpu")
        return Rises(rises, weights, probed.loss.detach().reshape(1))


class _Probed:
    """A shard's loss at w, and its gradients there and near it, in blocks."""

    def __init__(self, shard: Objective, w: Tensor, *, with_gradient: bool) -> None:
        self.shard = shard
        self.w = w
        self.gradient: Tensor | None = None
        if with_gradient:
            self.loss, self.gradient = shard.loss_and_gradient(w)
        else:
            self.loss = shard.loss(w)

    @property
    def has_length(self) -> bool:
        """Whether the length of the gradient is a number: where it overflows, ε would be zero."""
        return self.gradient is None or bool(torch.isfinite(self.gradient.norm()))

    def slopes(self, epsilon: list[Tensor] | None) -> list[Tensor]:
        """The gradient at w + ε."""
        if epsilon is None and self.gradient is not None:
            return self.shard.space.split(self.gradient)
        return self.shard.space.split(self.shard.gradient(self.w if epsilon is None else self.at(epsilon)))

    def at(self, epsilon: list[Tensor]) -> Tensor:
        """w + ε, ``(dim,)``."""
        space = self.shard.space
        return space.flatten(dict(zip(space.names, epsilon, strict=True))).add_(self.w)
