"""The loss along a path between two checkpoints, and the barrier on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from landscape.answers.paths import PathLosses, rises
from landscape.arguments import integer, real
from landscape.batch_norm import Statistics
from landscape.manifest import hash_of_tensor
from landscape.objective import Objective
from landscape.pairs import Pair
from landscape.progress import Progress, silent
from landscape.results import Array
from landscape.scores import Score, name_of_score
from landscape.seen import Eyes, Seen

MOST_ROUNDS = 12  # of refinement, with two points each: the last of them are 1/4096 of the first distance apart


class Curve(Protocol):
    """A path: weights at each t from 0 to 1, the checkpoints themselves at its ends."""

    name: str

    def at(self, t: float) -> Tensor:
        """The weights at t, ``(dim,)``."""

    @property
    def length(self) -> float:
        """Of the whole path."""

    def settings(self) -> dict[str, Any]:
        """How it was found, for a manifest."""


class Straight:
    """(1 − t) a + t b."""

    name = "straight line"

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self._ends = a, b

    def at(self, t: float) -> Tensor:
        """The weights at t, ``(dim,)``."""
        return torch.lerp(*self._ends, t)

    @property
    def length(self) -> float:
        """‖b − a‖₂."""
        return float((self._ends[1] - self._ends[0]).norm())

    def settings(self) -> dict[str, Any]:
        """Nothing had to be found."""
        return {}


def interpolate(
    objective: Objective,
    other: Objective,
    *,
    points: int = 25,
    tolerance: float = 1e-3,
    batch_norm: Statistics | None = None,
    held_out: Objective | None = None,
    score: Score | None = None,
    progress: Progress = silent,
) -> PathLosses:
    """L((1 − t) a + t b) for t from 0 to 1, and its barrier max_t L(path(t)) − [(1 − t) L(a) + t L(b)].

    The points are evenly spaced, and then refined around the highest rise over the line between the ends (at both ends
    where nothing rises), until the barrier is settled. A peak that is narrower than the even points are apart may be
    missed.

    Args:
        objective: gives a and L.
        other: the same loss over the same data for the checkpoint b; ``objective.at(weights)`` for weights alone.
        points: evenly spaced ones, both ends among them.
        tolerance: the barrier is settled when it may be higher by this part of the span of the rises at most.
        batch_norm: what batch norm normalises by along the path, ``Recomputed(training)`` or ``Frozen()``; to be said
            where the model has batch norm.
        held_out: an objective of the same model over other data.
        score: ``score(outputs, targets)``, a mean over the batch of which more is better, such as ``accuracy``.
        progress: called with the points done and the number there will be at least.

    Raises:
        TypeError: if ``other`` or ``held_out`` is no objective.
        ValueError: if the checkpoints are of different models, losses or data, have weights that are not finite, or
            a number is out of range.

    Frankle et al. 2020 (arXiv 1912.05671); with the line between the ends, Entezari et al. 2022 (arXiv 2110.06296).

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> data = [(torch.ones(1, 1).double(), torch.zeros(1, 1).double())]
    >>> objective = Objective(model, lambda y, _: (y**2 - 1).square().mean(), data)  # minima at w = ±1
    >>> ends = [objective.at(torch.tensor([w]).double()) for w in (-1.0, 1.0)]
    >>> interpolate(*ends).barrier
    Barrier(height=1.0, at=0.5, stderr=None)
    """
    pair = Pair(objective, other, batch_norm)
    eyes = Eyes(pair, held_out, score)
    return look_along(Straight(pair.a, pair.b), eyes, points=points, tolerance=tolerance, progress=progress)


def look_along(
    curve: Curve,
    eyes: Eyes,
    *,
    points: int,
    tolerance: float,
    progress: Progress = silent,
    more: Mapping[str, Array] | None = None,
) -> PathLosses:
    """The answer for any curve between the checkpoints of a pair.

    Args:
        curve: the path.
        eyes: how its points are looked at.
        points: evenly spaced ones.
        tolerance: see :func:`interpolate`.
        progress: called with the points done and the number there will be at least.
        more: further columns of the answer.
    """
    number = integer(points, "points", least=3)
    if not 0 < real(tolerance, "tolerance") < math.inf:
        raise ValueError(f"tolerance must be a positive, finite number; got {tolerance}")
    seen: dict[float, Seen] = {}

    def look(places: Sequence[float]) -> None:
        for t in places:
            seen[t] = eyes.at(curve.at(t), t)
            progress(len(seen), max(number + 2, len(seen)))

    look([i / (number - 1) for i in range(number)])
    rounding = 100 * torch.finfo(eyes.pair.a.dtype).eps
    resolution = math.nan
    best = math.inf
    for done in range(MOST_ROUNDS + 1):
        t = np.array(sorted(seen))
        losses = np.array([seen[place].loss for place in t.tolist()])
        if not np.isfinite(losses).all():
            break  # nobody knows how high the path is
        heights = rises(t, losses)
        top = float(heights.max())
        places = [int(np.argmax(heights))] if top > rounding * np.abs(losses).max() else [0, len(t) - 1]
        change, best = abs(top - best), top
        resolution = max(change, *(_rise_between(t, heights, place) for place in places))
        if resolution <= tolerance * float(np.ptp(heights)) + rounding * float(np.abs(losses).max()):
            break
        if done < MOST_ROUNDS:
            for place in places:
                around = t[max(0, place - 1) : place + 2]
                look([float(middle) for middle in (around[1:] + around[:-1]) / 2])
    progress(len(seen), len(seen))
    return _answer(curve, eyes, dict(sorted(seen.items())), number, float(tolerance), resolution, more or {})


def _answer(
    curve: Curve,
    eyes: Eyes,
    seen: dict[float, Seen],
    num_even: int,
    tolerance: float,
    resolution: float,
    more: Mapping[str, Array],
) -> PathLosses:
    pair, scored = eyes.pair, eyes.score is not None
    t = np.array(list(seen))
    columns: dict[str, Array] = {"losses": np.array([one.loss for one in seen.values()])}
    if scored:
        columns["scores"] = np.array([one.score for one in seen.values()])
    manifest = pair.objective.manifest()
    measurement = {"name": "path", "num_even": num_even, "tolerance": tolerance, "score": name_of_score(eyes.score)}
    if eyes.held_out is not None:
        columns |= _held_out(eyes, t, list(seen.values()))
        held_out = eyes.held_out.manifest()["objective"]
        measurement["held_out"] = {key: held_out[key] for key in ("split", "num_examples", "data")}
    if pair.batch_norm is not None:
        manifest["objective"]["batch_norm"] = pair.batch_norm.words()
    manifest["subject"] |= {"other_weights": hash_of_tensor(pair.b), "curve": {"name": curve.name, **curve.settings()}}
    return PathLosses(
        curve=curve.name,
        t=t,
        distance=pair.distance,
        length=curve.length,
        num_even=num_even,
        resolution=float(resolution),
        score=name_of_score(eyes.score),
        manifest=manifest | {"measurement": measurement},
        **columns,
        **more,
    )


def _held_out(eyes: Eyes, t: Array, seen: Sequence[Seen]) -> dict[str, Array]:
    """The columns of the held-out data: values, their standard errors, and those of what makes a barrier."""
    found: dict[str, Array] = {}
    rows = [one.examples for one in seen if one.examples is not None]
    for column, (values, stderrs, over, entry) in enumerate(
        [
            ("held_out_losses", "held_out_stderrs", "held_out_rise_stderrs", "held_out_loss"),
            ("held_out_scores", "held_out_score_stderrs", "held_out_fall_stderrs", "held_out_score"),
        ][: 1 if eyes.score is None else 2]
    ):
        means = np.array([getattr(one, entry) for one in seen])
        found[values] = means
        of_examples = [row[:, column] for row in rows]
        found[stderrs] = np.array([eyes.stderr(row, mean) for row, mean in zip(of_examples, means, strict=True)])
        chords = [(1 - s) * of_examples[0] + s * of_examples[-1] for s in t.tolist()]
        heights = zip(of_examples, chords, rises(t, means), strict=True)
        found[over] = np.array([eyes.stderr(row - chord, height) for row, chord, height in heights])
    return found


def _rise_between(t: Array, heights: Array, place: int) -> float:
    """How much higher than the highest point the parabola through it and its neighbours is, within these."""
    first = min(max(place - 1, 0), len(t) - 3)
    x, y = t[first : first + 3] - t[place], heights[first : first + 3] - heights[place]
    bend, slope, base = np.polyfit(x / np.ptp(x), y, 2)
    if bend >= 0:
        return 0.0
    top = float(np.clip(-slope / (2 * bend), x[0] / np.ptp(x), x[-1] / np.ptp(x)))
    return float((bend * top + slope) * top + base)
