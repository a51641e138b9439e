"""A report on the micro-batches of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from landscape.balls import norm
from landscape.precision import doubled


@dataclass(frozen=True)
class PerShard:
    """What the micro-batches of one step looked like, each on its own, in the order of the batch.

    Attributes:
        sizes: numbers of examples, ``(m,)``.
        losses: L_{S_i}(w), ``(m,)``; NaN where there was nothing to average.
        rises: L_{S_i}(w + ε_i) − L_{S_i}(w), ``(m,)``; NaN where nothing was perturbed.
        gradient_norms: ‖∇L_{S_i}(w)‖₂ over the perturbed weights, ``(m,)``.
        mean_cosine: of the angles between the gradients of two micro-batches at w, over all pairs; NaN for fewer than
            two. It is 1 where all agree, and near 0 where they have nothing in common.
    """

    sizes: Tensor
    losses: Tensor
    rises: Tensor
    gradient_norms: Tensor
    mean_cosine: float


class Observer:
    """Collects a :class:`PerShard`, in the memory of one more gradient.

    The mean cosine over pairs follows from the sum of the m unit vectors: ‖Σ u_i‖² = m + 2 Σ_{i<j} cos(i, j). So what
    several observers have seen can be added up.
    """

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, Tensor, Tensor, Tensor]] = {}  # in order
        self.direction: list[Tensor] | None = None  # Σ u_i
        self.directions = 0

    def add(self, number: int, size: int, loss: Tensor, perturbed_loss: Tensor | None, gradient: list[Tensor]) -> None:
        """Take in one micro-batch."""
        length = norm(gradient) if gradient else torch.zeros_like(loss)  # nothing that is perturbed is trained
        rise = torch.full_like(loss, float("nan")) if perturbed_loss is None else perturbed_loss - loss
        self.rows[number] = (size, loss, rise, length)
        if not length > 0:
            return
        unit = list(torch._foreach_div(gradient, length))
        self.directions += 1
        if self.direction is None:
            self.direction = unit
        else:
            torch._foreach_add_(self.direction, unit)

    def skip(self, number: int, size: int, like: Tensor) -> None:
        """Take in one micro-batch that has nothing to average."""
        nothing = torch.full_like(like, float("nan"))
        self.rows[number] = (size, nothing, nothing, nothing)

    def followed_by(self, other: Observer) -> Observer:
        """What both have seen, the other's micro-batches after these."""
        both = Observer()
        both.rows = self.rows | {len(self.rows) + number: row for number, row in other.rows.items()}
        both.directions = self.directions + other.directions
        there = [direction for direction in (self.direction, other.direction) if direction is not None]
        both.direction = list(torch._foreach_add(*there)) if len(there) == 2 else there[0] if there else None
        return both

    @staticmethod
    def addends(observer: Observer | None, shapes: Sequence[torch.Size], number: int, like: Tensor) -> list[Tensor]:
        """What observers of disjoint parts of ``number`` micro-batches are to add up, for :meth:`of_sums`.

        Args:
            observer: None has seen nothing.
            shapes: of the perturbed weights.
            number: of all micro-batches, m.
            like: a scalar tensor, of the type and on the device of the sums.

        Returns:
            Losses, rises and norms, ``(m, 3)``; the number of unit vectors; and their sum, one tensor per shape.
        """
        table = like.new_zeros(number, 3)
        if observer is None:
            return [table, like.new_zeros(1), *(like.expand(shape) for shape in shapes)]
        for place, (_, *values) in observer.rows.items():
            table[place] = torch.stack([value.to(like) for value in values])
        directions = [like.expand(shape) for shape in shapes] if observer.direction is None else observer.direction
        return [table, like.new_full((1,), observer.directions), *(part.to(like) for part in directions)]

    @classmethod
    def of_sums(cls, sizes: Sequence[int], sums: Sequence[Tensor]) -> Self:
        """One that has seen all micro-batches, from the sums of what :meth:`addends` gave for each part."""
        table, directions, *direction = sums
        observer = cls()
        observer.rows = {place: (size, *table[place]) for place, size in enumerate(sizes)}
        observer.directions = round(float(directions))
        observer.direction = direction
        return observer

    @property
    def report(self) -> PerShard:
        """The report on what was taken in."""
        sizes, losses, rises, lengths = zip(*self.rows.values(), strict=True)
        cosine = float("nan")
        if self.directions > 1 and self.direction is not None:
            square = float(torch.stack([doubled(part).square().sum() for part in self.direction]).sum())
            cosine = (square - self.directions) / (self.directions * (self.directions - 1))
        return PerShard(
            torch.tensor(sizes, device=losses[0].device),
            torch.stack(losses),
            torch.stack(rises),
            torch.stack(lengths),
            cosine,
        )
