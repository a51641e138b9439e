"""Answers about the loss at a distance from the weights. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class Sharpness(Result):
    """The mean rise in loss over shards of the data, each perturbed on its own.

    Attributes:
        value: mean over shards, weighted by what the loss of each is divided by (its examples, for a plain mean).
        stderr: its standard error over shards; NaN for a single shard, which gives no estimate of it.
        per_shard: ``(num_shards,)``, rise in loss of each shard that has anything to count.
        shard_sizes: ``(num_shards,)``, examples in each.
        denominators: ``(num_shards,)``, what the loss of each is divided by, its weight in the mean: examples, tokens,
            or class weights; None in results that were saved before these were.
        microbatch_size: examples per shard asked for.
    """

    value: float
    stderr: float
    per_shard: Array = field(repr=False)
    shard_sizes: Array = field(repr=False)
    denominators: Array | None = field(repr=False, default=None)
    microbatch_size: int

    title: ClassVar[str] = "m-sharpness"

    def summary(self) -> dict[str, Any]:
        """Value and standard error."""
        return {
            "sharpness": self.value,
            "stderr": self.stderr,
            "microbatch_size": self.microbatch_size,
            "num_shards": len(self.per_shard),
            **{key: value for key, value in self.manifest.get("measurement", {}).items() if key in ("rho", "eta")},
        }

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        remark = f"standard error over {len(self.per_shard)} shards of {self.microbatch_size} examples"
        if len(self.per_shard) == 1:
            remark = "a single shard gives no standard error"
        return [Line("m-sharpness", self.value, self.stderr, remark)]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        columns = {"rise": self.per_shard, "examples": self.shard_sizes}
        if self.denominators is not None:
            columns["denominator"] = self.denominators
        return pd.DataFrame(columns).rename_axis("shard").reset_index()


@dataclass(frozen=True, kw_only=True)
class LineSlice(Result):
    """L(w + t d) along one direction.

    Attributes:
        coordinates: ``(n,)``, the values of t.
        losses: ``(n,)``; not finite where the loss is not.
        length: ‖d‖₂, so that t · length is a distance in weight space.
    """

    coordinates: Array
    losses: Array
    length: float

    title: ClassVar[str] = "line slice"

    def summary(self) -> dict[str, Any]:
        """Lowest and highest loss, and how many points are not finite."""
        return _range(self.losses) | {"num_points": self.losses.size}

    def lines(self) -> list[Line]:
        """Lowest and highest loss."""
        return _range_lines(self.losses)

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        return pd.DataFrame({"coordinate": self.coordinates, "loss": self.losses})


@dataclass(frozen=True, kw_only=True)
class PlaneSlice(Result):
    """L(w + x d₁ + y d₂) on a grid.

    Attributes:
        x: ``(nx,)``, coordinates along the first direction.
        y: ``(ny,)``, coordinates along the second.
        losses: ``(ny, nx)``; not finite where the loss is not.
        lengths: ``(2,)``, the norms of the directions.
        cosine: of the angle between the directions.
    """

    x: Array
    y: Array
    losses: Array
    lengths: Array
    cosine: float

    title: ClassVar[str] = "plane slice"

    def summary(self) -> dict[str, Any]:
        """Lowest and highest loss, the angle of the axes, and how many points are not finite."""
        return _range(self.losses) | {"num_points": self.losses.size, "cosine": self.cosine}

    def lines(self) -> list[Line]:
        """Lowest and highest loss."""
        return [*_range_lines(self.losses), Line("cosine of the directions", self.cosine)]

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        grid_x, grid_y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": grid_x.ravel(), "y": grid_y.ravel(), "loss": self.losses.ravel()})


def _range(losses: Array) -> dict[str, Any]:
    finite = losses[np.isfinite(losses)]
    return {
        "lowest_loss": float(finite.min()) if finite.size else float("nan"),
        "highest_loss": float(finite.max()) if finite.size else float("nan"),
        "num_not_finite": int(losses.size - finite.size),
    }


def _range_lines(losses: Array) -> list[Line]:
    found = _range(losses)
    lost = f"{found['num_not_finite']} of {losses.size} points are not finite" if found["num_not_finite"] else ""
    return [Line("lowest loss", found["lowest_loss"]), Line("highest loss", found["highest_loss"], None, lost)]
