"""Answers about the loss along a path between two checkpoints. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


class Barrier(NamedTuple):
    """How far a path rises above the straight line between the values at its ends, and where.

    ``height`` is zero where it does not rise, and not finite where a value on the path is not. ``stderr`` is that of
    the height as an estimate for other examples, at that place; None of data that are not a sample.
    """

    height: float
    at: float
    stderr: float | None = None


@dataclass(frozen=True, kw_only=True)
class PathLosses(Result):
    """The loss along a path between two checkpoints a and b, at t from 0 to 1.

    Arrays have one entry per point; those of what was not asked for are None.

    Attributes:
        curve: what the path is, such as ``"straight line"``.
        t: ``(n,)``, ascending, from 0, which is a, to 1, which is b.
        losses: ``(n,)``; not finite where the loss is not.
        scores: what ``score`` names, such as the accuracy; more is better.
        held_out_losses: the loss on other data.
        held_out_scores: the score on other data.
        held_out_stderrs: of each held-out loss as an estimate for new examples; NaN where the loss of all is no plain
            mean over the examples.
        held_out_score_stderrs: of each held-out score.
        held_out_rise_stderrs: of the rise in held-out loss over the line between the ends, example by example.
        held_out_fall_stderrs: of the fall in held-out score below the line between the ends, example by example.
        score: the name of the score; empty without one.
        num_even: how many of the points are evenly spaced; the others are around the highest of them.
        resolution: how much higher the barrier may be between the points, by the parabola through the highest ones and
            by what the last refinement changed; NaN where a loss is not finite.
        distance: ‖b − a‖₂.
        length: of the path.
        bend: ``(dim,)``, the weights that a Bezier curve is drawn towards.
        trained_at: ``(steps,)``, the t of each step of the training of the bend.
        training_losses: ``(steps,)``, the loss of a mini-batch there.
    """

    curve: str
    t: Array
    losses: Array
    distance: float
    length: float
    num_even: int
    resolution: float
    score: str = ""
    scores: Array | None = field(repr=False, default=None)
    held_out_losses: Array | None = field(repr=False, default=None)
    held_out_scores: Array | None = field(repr=False, default=None)
    held_out_stderrs: Array | None = field(repr=False, default=None)
    held_out_score_stderrs: Array | None = field(repr=False, default=None)
    held_out_rise_stderrs: Array | None = field(repr=False, default=None)
    held_out_fall_stderrs: Array | None = field(repr=False, default=None)
    bend: Array | None = field(repr=False, default=None)
    trained_at: Array | None = field(repr=False, default=None)
    training_losses: Array | None = field(repr=False, default=None)

    title: ClassVar[str] = "path"

    @property
    def barrier(self) -> Barrier:
        """max over t of L(path(t)) − [(1 − t) L(a) + t L(b)]."""
        return highest(self.t, rises(self.t, self.losses))

    @property
    def score_barrier(self) -> Barrier | None:
        """The same of the fall of the score below the line between the ends."""
        return None if self.scores is None else highest(self.t, -rises(self.t, self.scores))

    @property
    def held_out_barrier(self) -> Barrier | None:
        """That of the loss on other data, with its standard error."""
        if self.held_out_losses is None:
            return None
        return highest(self.t, rises(self.t, self.held_out_losses), self.held_out_rise_stderrs)

    @property
    def held_out_score_barrier(self) -> Barrier | None:
        """That of the score on other data, with its standard error."""
        if self.held_out_scores is None:
            return None
        return highest(self.t, -rises(self.t, self.held_out_scores), self.held_out_fall_stderrs)

    @property
    def mean_loss(self) -> float:
        """∫₀¹ L(path(t)) dt, by trapezia."""
        return float(np.trapezoid(self.losses, self.t))

    def summary(self) -> dict[str, Any]:
        """The barriers, where they are, and how long the path is."""
        found: dict[str, Any] = {"curve": self.curve}
        for name, barrier in self._barriers().items():
            found |= {name: barrier.height, f"{name}_at": barrier.at}
            if barrier.stderr is not None:
                found[f"{name}_stderr"] = barrier.stderr
        return found | {
            "resolution": self.resolution,
            "losses_of_ends": [float(self.losses[0]), float(self.losses[-1])],
            "mean_loss": self.mean_loss,
            "distance": self.distance,
            "length": self.length,
            "num_points": len(self.t),
            "num_not_finite": int(np.count_nonzero(~np.isfinite(self.losses))),
        }

    def lines(self) -> list[Line]:
        """The barriers, where they are, and how long the path is."""
        words = {
            "barrier": "barrier in loss",
            "score_barrier": f"barrier in {self.score}",
            "held_out_barrier": "barrier in held-out loss",
            "held_out_score_barrier": f"barrier in held-out {self.score}",
        }
        lines = []
        for name, barrier in self._barriers().items():
            place = f"{self.curve}, at t = {barrier.at:.3g}"
            stderr = self.resolution if name == "barrier" else barrier.stderr
            remark = f"{place}; {len(self.t)} points" if name == "barrier" else place
            lines.append(Line(words[name], barrier.height, stderr, remark))
        lost = int(np.count_nonzero(~np.isfinite(self.losses)))
        lines.append(Line("mean loss along the path", self.mean_loss, None, f"{lost} not finite" if lost else ""))
        return [*lines, Line("length of the path", self.length, None, f"the ends are {self.distance:.4g} apart")]

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        names = {
            "losses": "loss",
            "scores": self.score,
            "held_out_losses": "held_out_loss",
            "held_out_stderrs": "held_out_stderr",
            "held_out_scores": f"held_out_{self.score}",
            "held_out_score_stderrs": f"held_out_{self.score}_stderr",
        }
        columns = {name: getattr(self, entry) for entry, name in names.items()}
        return pd.DataFrame({"t": self.t} | {name: column for name, column in columns.items() if column is not None})

    def _barriers(self) -> dict[str, Barrier]:
        names = ("barrier", "score_barrier", "held_out_barrier", "held_out_score_barrier")
        found = {name: getattr(self, name) for name in names}
        return {name: barrier for name, barrier in found.items() if barrier is not None}


def rises(t: Array, values: Array) -> Array:
    """How far values rise above the line between the first and the last, ``(n,)``; exactly zero at the ends.

    >>> rises(np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 2.0])).tolist()
    [0.0, 2.5, 0.0]
    """
    found: Array = values - ((1 - t) * values[0] + t * values[-1])
    return found


def highest(t: Array, heights: Array, stderrs: Array | None = None) -> Barrier:
    """The largest of some heights; NaN where one of them is, as nobody knows how high it is there."""
    place = int(np.argmax(heights))  # the first NaN, where there is one
    return Barrier(float(heights[place]) + 0.0, float(t[place]), None if stderrs is None else float(stderrs[place]))
