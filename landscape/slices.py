"""The loss along a line and over a plane through the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.answers import LineSlice, PlaneSlice
from landscape.manifest import hash_of_tensor
from landscape.objective import Objective
from landscape.planes import Axis, Direction, Plane
from landscape.progress import Progress, silent

Coordinates = Sequence[float] | npt.NDArray[np.floating]


def line_slice(
    objective: Objective, direction: Direction | Axis, *, coordinates: Coordinates, progress: Progress = silent
) -> LineSlice:
    """L(w + t d) for each coordinate t.

    Args:
        objective: gives w and L.
        direction: d, ``(dim,)``, or an axis with its marks.
        coordinates: the values of t, ``(n,)``, in any order; zero is the model itself.
        progress: called with the points done and their number.

    Returns:
        Losses, ``(n,)``. A loss that is not finite stays so.

    Raises:
        ValueError: if the direction has another length, is zero or not finite, or a coordinate is not finite.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> data = [(torch.ones(1, 1).double(), model.weight.detach())]  # (w - w₀)²
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> line_slice(objective, torch.ones(1), coordinates=[-1.0, 0.0, 2.0]).losses.round(9).tolist()
    [1.0, 0.0, 4.0]
    """
    axis = direction if isinstance(direction, Axis) else Axis(direction)
    d = _direction(objective, axis.direction, name="direction")
    t = _coordinates(coordinates, name="coordinates")
    w, point = objective.weights, torch.empty_like(objective.weights)
    losses = np.empty(len(t))
    for i, step in enumerate(t):
        losses[i] = objective.loss(torch.add(w, d, alpha=float(step), out=point)).item()
        progress(i + 1, len(t))
    settings: dict[str, Any] = {
        "name": "line_slice",
        "direction": hash_of_tensor(d),
        "coordinates": [float(x) for x in t],
    }
    return LineSlice(
        coordinates=t,
        losses=losses,
        length=float(d.norm()),
        marks=axis.marks,
        mark_names=None if axis.marks is None else np.array(axis.mark_names, dtype=str),
        manifest=_manifest(objective, settings),
    )


def plane_slice(
    objective: Objective,
    directions: tuple[Direction, Direction] | Plane,
    *,
    x: Coordinates,
    y: Coordinates,
    progress: Progress = silent,
) -> PlaneSlice:
    """L(w + x d₁ + y d₂) on the grid of all x and y.

    Args:
        objective: gives w and L.
        directions: d₁ and d₂, each ``(dim,)``, or a plane with its marks or its path; they are used as they are.
        x: coordinates along d₁, ``(nx,)``.
        y: coordinates along d₂, ``(ny,)``.
        progress: called with the points done and their number.

    Returns:
        Losses, ``(ny, nx)``. A loss that is not finite stays so.

    Raises:
        ValueError: if a direction has another length, is zero or not finite, if the two are parallel, or if a
            coordinate is not finite.
    """
    plane = directions if isinstance(directions, Plane) else Plane(directions)
    first = _direction(objective, plane.directions[0], name="the first direction")
    second = _direction(objective, plane.directions[1], name="the second direction")
    cosine = float(first @ second / (first.norm() * second.norm()))
    if 1 - abs(cosine) < 1e-6:
        raise ValueError(f"the two directions are parallel (cosine {cosine:.7f}); they span no plane")
    xs, ys = _coordinates(x, name="x"), _coordinates(y, name="y")
    w, row, point = objective.weights, torch.empty_like(objective.weights), torch.empty_like(objective.weights)
    losses = np.empty((len(ys), len(xs)))
    for j, v in enumerate(ys):
        torch.add(w, second, alpha=float(v), out=row)
        for i, u in enumerate(xs):
            losses[j, i] = objective.loss(torch.add(row, first, alpha=float(u), out=point)).item()
            progress(j * len(xs) + i + 1, losses.size)
    settings: dict[str, Any] = {
        "name": "plane_slice",
        "directions": [hash_of_tensor(first), hash_of_tensor(second)],
        "x": [float(u) for u in xs],
        "y": [float(v) for v in ys],
    }
    return PlaneSlice(
        x=xs,
        y=ys,
        losses=losses,
        lengths=np.array([float(first.norm()), float(second.norm())]),
        cosine=cosine,
        marks=plane.marks,
        mark_names=None if plane.marks is None else np.array(plane.mark_names, dtype=str),
        path=plane.path,
        path_distances=plane.path_distances,
        explained=plane.explained,
        manifest=_manifest(objective, settings),
    )


def _manifest(objective: Objective, settings: dict[str, Any]) -> dict[str, Any]:
    """Directions depend on the weights, as filter normalisation does: they belong to the subject, not the protocol."""
    manifest = objective.manifest()
    for key in ("direction", "directions"):
        if key in settings:
            manifest["subject"][key] = settings.pop(key)
    return manifest | {"measurement": settings}


def _direction(objective: Objective, direction: Direction, *, name: str) -> Tensor:
    if not isinstance(direction, Tensor):
        direction = torch.from_numpy(np.array(direction))  # a copy: the arrays of results are frozen
    d = direction.detach().to(objective.weights)
    if d.shape != objective.weights.shape:
        raise ValueError(f"{name} must have shape ({objective.space.dim},), one per weight; got {tuple(d.shape)}")
    if not torch.isfinite(d).all():
        raise ValueError(f"{name} has entries that are not finite")
    if not d.any():
        raise ValueError(f"{name} is zero: there is nothing to walk along")
    return d


def _coordinates(values: Coordinates, *, name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a list of numbers, not empty; got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)][0]}")
    return array
