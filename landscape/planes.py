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
        marks: coordinates t of the places w + t d, ``(k,)``.
        mark_names: one name for each; they are numbered when left out.

    Raises:
        ValueError: if there are other than as many names as marks, or the marks have another shape.
    """

    direction: Direction
    marks: Array | None = None
    mark_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_places(self, "marks", 1)


@dataclass(frozen=True)
class Plane:
    """Two directions, with places that are marked in their plane, or the path of a training.

    Attributes:
        directions: d₁ and d₂, each ``(dim,)``.
        marks: ``(k, 2)``, coordinates of the places w + x d₁ + y d₂.
        mark_names: one name for each; they are numbered when left out.
        path: ``(n, 2)``, coordinates of weights along a training, each projected onto the plane.
        path_distances: ``(n,)``, how far each of them lies from the plane.
        explained: ``(2,)``, the share in the variance of the path that is along each direction.

    Raises:
        ValueError: if marks, names, path or distances have another shape than these.
    """

    directions: tuple[Direction, Direction]
    marks: Array | None = None
    mark_names: Sequence[str] = ()
    path: Array | None = None
    path_distances: Array | None = None
    explained: Array | None = None

    def __post_init__(self) -> None:
        _require_places(self, "marks", 2)
        _require_places(self, "path", 2)
        distances, path = self.path_distances, self.path
        if distances is not None and np.shape(distances) != (0 if path is None else len(path),):
            raise ValueError(f"path_distances must have one for each place of path; got shape {np.shape(distances)}")


def _require_places(of: Axis | Plane, name: str, axes: int) -> None:
    """Places must have a coordinate for each axis, and a name each; they become arrays, and names numbers."""
    given = getattr(of, name)
    if given is None:
        return
    places = np.asarray(given, dtype=np.float64)
    if places.ndim != axes or (axes > 1 and places.shape[1] != axes):
        shape = "(k,)" if axes == 1 else f"(k, {axes})"
        raise ValueError(f"{name} must have shape {shape}, coordinates of places; got {places.shape}")
    object.__setattr__(of, name, places)
    if name == "marks":
        names = of.mark_names or [f"mark {i + 1}" for i in range(len(places))]
        if len(names) != len(places):
            raise ValueError(f"mark_names must have one for each of {len(places)} marks; got {len(names)}")
        object.__setattr__(of, "mark_names", names)


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
