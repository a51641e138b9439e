"""Answers about the loss along lines and over planes through the weights. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class Slice(Result):
    """The loss at the points of a grid, and what else was found out in the same pass.

    Arrays have the shape of the grid; those of what was not asked for are None.

    Attributes:
        losses: L at each point; not finite where the loss is not.
        stderrs: standard error of each loss as an estimate of that over all the data, where they are a sample of those.
        scores: what ``score`` names, such as the accuracy, at each point.
        held_out_losses: the loss on other data.
        held_out_stderrs: its standard error.
        held_out_scores: the score on other data.
        score: the name of the score; empty without one.
        evaluated: whether each point was evaluated, and not interpolated between others; all were, where it is None.
        interpolation_error: the largest difference between loss and interpolation, on points that were evaluated for
            this alone; NaN where there were none.
        mark_names: ``(k,)``, names of the places that are marked.
    """

    losses: Array
    stderrs: Array | None = field(repr=False, default=None)
    scores: Array | None = field(repr=False, default=None)
    held_out_losses: Array | None = field(repr=False, default=None)
    held_out_stderrs: Array | None = field(repr=False, default=None)
    held_out_scores: Array | None = field(repr=False, default=None)
    score: str = ""
    evaluated: Array | None = field(repr=False, default=None)
    interpolation_error: float = float("nan")
    mark_names: Array | None = field(repr=False, default=None)

    @property
    def num_evaluated(self) -> int:
        """The points that were evaluated."""
        return int(self.losses.size if self.evaluated is None else np.count_nonzero(self.evaluated))

    def summary(self) -> dict[str, Any]:
        """Lowest and highest loss, how many points are not finite, and what interpolation has left."""
        finite = self.losses[np.isfinite(self.losses)]
        found = {
            "lowest_loss": float(finite.min()) if finite.size else float("nan"),
            "highest_loss": float(finite.max()) if finite.size else float("nan"),
            "num_not_finite": int(self.losses.size - finite.size),
            "num_points": int(self.losses.size),
        }
        if self.evaluated is not None:
            found |= {"num_evaluated": self.num_evaluated, "interpolation_error": self.interpolation_error}
        return found

    def lines(self) -> list[Line]:
        """Lowest and highest loss, and what interpolation has left."""
        found = self.summary()
        lost = ""
        if found["num_not_finite"]:
            lost = f"{found['num_not_finite']} of {self.losses.size} points are not finite"
        lines = [Line("lowest loss", found["lowest_loss"]), Line("highest loss", found["highest_loss"], None, lost)]
        if self.evaluated is not None:
            remark = f"{self.num_evaluated} of {self.losses.size} points evaluated; the largest seen on held-out points"
            lines.append(Line("interpolation error", self.interpolation_error, None, remark))
        return lines

    def _columns(self) -> dict[str, Array]:
        """What each point has, for a table."""
        names = ("losses", "stderrs", "scores", "held_out_losses", "held_out_stderrs", "held_out_scores", "evaluated")
        singular = {name: name.removesuffix("es" if name.endswith("losses") else "s") for name in names}
        found = {singular[name]: getattr(self, name) for name in names}
        if self.score:
            found = {name.replace("score", self.score): value for name, value in found.items()}
        return {name: value.ravel() for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LineSlice(Slice):
    """L(w + t d) along one direction.

    Attributes:
        coordinates: ``(n,)``, the values of t.
        length: ‖d‖₂, so that t · length is a distance in weight space.
        marks: coordinates of places on the line, such as other checkpoints, one for each of ``mark_names``.
    """

    coordinates: Array
    length: float
    marks: Array | None = field(repr=False, default=None)

    title: ClassVar[str] = "line slice"

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        return pd.DataFrame({"coordinate": self.coordinates} | self._columns())


@dataclass(frozen=True, kw_only=True)
class PlaneSlice(Slice):
    """L(w + x d₁ + y d₂) on a grid.

    Attributes:
        x: ``(nx,)``, coordinates along the first direction.
        y: ``(ny,)``, coordinates along the second; the grid is ``(ny, nx)``.
        lengths: ``(2,)``, the norms of the directions.
        cosine: of the angle between the directions.
        marks: ``(k, 2)``, coordinates of places in the plane, such as other checkpoints, one for each of
            ``mark_names``.
        path: ``(n, 2)``, coordinates of weights along a training, each projected onto the plane.
        path_distances: ``(n,)``, how far each of them lies from the plane.
        explained: ``(2,)``, the share in the variance of the path that is along each direction.
    """

    x: Array
    y: Array
    lengths: Array
    cosine: float
    marks: Array | None = field(repr=False, default=None)
    path: Array | None = field(repr=False, default=None)
    path_distances: Array | None = field(repr=False, default=None)
    explained: Array | None = field(repr=False, default=None)

    title: ClassVar[str] = "plane slice"

    def summary(self) -> dict[str, Any]:
        """Those of all slices, the angle of the axes, and how much of a path the plane shows."""
        found = super().summary() | {"cosine": self.cosine}
        if self.explained is not None:
            found["explained"] = [float(share) for share in self.explained]
        if self.path_distances is not None:
            found["largest_distance_of_path"] = float(np.max(self.path_distances))
        return found

    def lines(self) -> list[Line]:
        """Those of all slices, the angle of the axes, and how much of a path the plane shows."""
        lines = [*super().lines(), Line("cosine of the directions", self.cosine)]
        if self.explained is not None:
            first, second = (f"{float(share):.1%}" for share in self.explained)
            remark = f"{first} along the first direction, {second} along the second"
            lines.append(Line("variance of the path in the plane", float(self.explained.sum()), None, remark))
        if self.path_distances is not None:
            lines.append(Line("largest distance of the path from the plane", float(np.max(self.path_distances))))
        return lines

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        grid_x, grid_y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": grid_x.ravel(), "y": grid_y.ravel()} | self._columns())
