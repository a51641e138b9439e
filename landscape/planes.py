"""Lines and planes in weight space with what is known of them: places that are marked, the path of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.results import Array

Direction = Tensor | npt.NDArray[np.floating]


@dataclass(frozen=True)
class Axis:
    """A direction, with places that are marked on its line.

    Attributes:
        direction: d, ``(dim,)``.
        marks: coordinates t of the places w + t d.
        mark_names: one name for each.
    """

    direction: Direction
    marks: Array | None = None
    mark_names: Sequence[str] = ()


@dataclass(frozen=True)
class Plane:
    """Two directions, with places that are marked in their plane, or the path of a training.

    Attributes:
        directions: d₁ and d₂, each ``(dim,)``.
        marks: ``(k, 2)``, coordinates of the places w + x d₁ + y d₂.
        mark_names: one name for each.
        path: ``(n, 2)``, coordinates of weights along a training, each projected onto the plane.
        path_distances: ``(n,)``, how far each of them lies from the plane.
        explained: ``(2,)``, the share in the variance of the path that is along each direction.
    """

    directions: tuple[Direction, Direction]
    marks: Array | None = None
    mark_names: Sequence[str] = ()
    path: Array | None = None
    path_distances: Array | None = None
    explained: Array | None = None


def tensor_of(vector: Direction, name: str) -> Tensor:
    """A direction, or weights, as a tensor of real numbers; arrays are copied, since those of results are frozen.

    Raises:
        TypeError: naming it, if it is anything else, complex numbers included.

    >>> tensor_of(np.ones(2), "direction")
    tensor([1., 1.], dtype=torch.float64)
    """
    try:
        found = vector.detach() if isinstance(vector, Tensor) else torch.from_numpy(np.array(vector))
    except (TypeError, ValueError):  # of words, of lists of several lengths
        found = None
    if found is None or found.is_complex():
        what = type(vector).__name__ if found is None else "complex ones"
        raise TypeError(f"{name} must be a tensor or an array of real numbers, one per weight; got {what}")
    return found
