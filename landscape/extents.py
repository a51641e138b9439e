"""Grids that take in what is marked on a line or in a plane."""

from __future__ import annotations

import numpy as np

from landscape.arguments import integer, real
from landscape.planes import Axis, Plane
from landscape.results import Array

_NARROWEST = 0.4  # of the wider side of a plane


def coordinates_around(axis: Axis, *, points: int = 51, margin: float = 0.25) -> Array:
    """Coordinates that take in the marks of an axis, with a margin on either side; zero, the model, is one of them.

    Args:
        axis: a line with marks.
        points: about how many coordinates, at least 2; one or two more where zero asks for it.
        margin: on either side, as a share of the distance between the outermost marks.

    Returns:
        Evenly spaced, ascending, ``(n,)``.

    Raises:
        ValueError: if nothing but the model is marked, or a number is out of range.

    >>> coordinates_around(Axis(np.ones(3), np.array([0.0, 1.0])), points=7, margin=0.25).tolist()
    [-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    """
    low, high = _ends(np.zeros(0) if axis.marks is None else np.asarray(axis.marks, dtype=np.float64))
    if low == high:
        raise ValueError("nothing is marked on the axis but the model; give the coordinates yourself")
    around = _margin(margin) * (high - low)
    return _multiples((high - low + 2 * around) / _gaps(points), low - around, high + around)


def grid_around(plane: Plane, *, points: int = 25, margin: float = 0.15) -> tuple[Array, Array]:
    """Coordinates x and y that take in the marks and the path of a plane, with a margin around them.

    They have one spacing, so that the cells are squares, and zero, the model, is among both. The narrower side is at
    least 0.4 of the wider one.

    Args:
        plane: a plane with marks or a path.
        points: about how many coordinates along the wider side, at least 2.
        margin: on every side, as a share of the extent along the wider one.

    Returns:
        x, ``(nx,)``, and y, ``(ny,)``.

    Raises:
        ValueError: if nothing but the model is marked, or a number is out of range.

    >>> plane = Plane((np.ones(3), np.ones(3)), marks=np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 2.0]]))
    >>> x, y = grid_around(plane, points=7, margin=0.25)
    >>> x.tolist(), y.tolist()
    ([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, 0.0, 1.0, 2.0, 3.0])
    """
    known = [np.asarray(places, dtype=np.float64) for places in (plane.marks, plane.path) if places is not None]
    sides = [_ends(side) for side in np.concatenate([np.zeros((1, 2)), *known]).T]
    widest = max(high - low for low, high in sides)
    if widest == 0:
        raise ValueError("nothing is marked in the plane but the model; give the coordinates yourself")
    around = _margin(margin) * widest
    step = (widest + 2 * around) / _gaps(points)
    grids = []
    for low, high in sides:
        lacking = max(0.0, _NARROWEST * (widest + 2 * around) - (high - low + 2 * around)) / 2
        grids.append(_multiples(step, low - around - lacking, high + around + lacking))
    return grids[0], grids[1]


def _ends(places: Array) -> tuple[float, float]:
    """The least and the largest of some places and zero.

    Raises:
        ValueError: if one is not finite.
    """
    if not np.isfinite(places).all():
        raise ValueError(f"what is marked must lie at finite coordinates; got {places[~np.isfinite(places)][0]}")
    return min([0.0, *places.tolist()]), max([0.0, *places.tolist()])


def _margin(margin: float) -> float:
    if not 0 <= real(margin, "margin") < np.inf:
        raise ValueError(f"margin must be a share of at least 0; got {margin}")
    return float(margin)


def _gaps(points: int) -> int:
    return integer(points, "points", least=2) - 1


def _multiples(step: float, low: float, high: float) -> Array:
    """The multiples of a step from the last one at or below ``low`` to the first at or above ``high``."""
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    found: Array = step * np.arange(first, last + 1)
    return found
