"""The order of hidden units, which a network computes the same function in: where each unit has its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where the units of a layer have numbers: ``block`` consecutive ones for each along an axis of a tensor."""

    name: str
    axis: int
    block: int = 1


@dataclass
class Units:
    """The outputs of layers that others read, in an order that can be changed.

    Attributes:
        layer: the first of those they are outputs of; where shortcuts add outputs of several these share their order.
        number: how many.
        places: the numbers that go with them.
        group: units that are normalised together and stay together; one where each is free.
    """

    layer: str
    number: int
    places: list[Place] = field(default_factory=list)
    group: int = 1

    @property
    def is_coupled(self) -> bool:
        """Whether a tensor has them along two of its axes, as where a layer is added to what it reads."""
        return len({place.name for place in self.places}) < len(self.places)

    def drawn(self, generator: torch.Generator) -> Order:
        """A random order that keeps groups together."""
        groups = torch.randperm(self.number // self.group, generator=generator, device="cpu")
        inside = torch.stack([torch.randperm(self.group, generator=generator, device="cpu") for _ in groups])
        order: Order = (groups[:, None] * self.group + inside).flatten().numpy()
        return order

    def best(self, gains: npt.NDArray[np.float64]) -> Order:
        """The order with the largest sum of ``gains[i, order[i]]``, among those that keep groups together.

        The best order within each pair of groups first, and then of the groups: both by linear assignment, exact.
        """
        size, count = self.group, self.number // self.group
        if size == 1:
            return linear_sum_assignment(gains, maximize=True)[1].astype(np.int64)
        cells = gains.reshape(count, size, count, size).swapaxes(1, 2)
        inside = np.array([[linear_sum_assignment(cell, maximize=True)[1] for cell in row] for row in cells])
        values = np.take_along_axis(cells, inside[..., None], axis=3).sum(axis=(2, 3))
        groups = linear_sum_assignment(values, maximize=True)[1]
        order: Order = (groups[:, None] * size + inside[np.arange(count), groups]).ravel()
        return order


def reordered(
    tensors: Mapping[str, Tensor], units: Sequence[Units], orders: Sequence[Order], *, but: int | None = None
) -> dict[str, Tensor]:
    """Tensors in which unit ``order[i]`` of each layer has come to place i; those of layer ``but`` stay in theirs."""
    found = dict(tensors)
    for number, (unit, order) in enumerate(zip(units, orders, strict=True)):
        for place in unit.places if number != but else ():
            if place.name in found:
                rows = order[:, None] * place.block + np.arange(place.block)
                found[place.name] = found[place.name].index_select(
                    place.axis, torch.from_numpy(rows.ravel()).to(found[place.name].device)
                )
    return found
