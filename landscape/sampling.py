"""Which points of a grid are evaluated, where the others can be interpolated between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from landscape.arguments import integer, real
from landscape.results import Array

_FIRST = 6  # nodes along each axis to begin with
_LEAST = 5  # values along an axis below which nothing is gained
_GROWTH, _AT_LEAST = 0.2, 4  # points of a round: a share of those there are, and no fewer than so many for each axis
_AT_RANDOM = 0.25  # of the points of a round
_SURE = 2  # rounds in a row in which the held-out points must agree
_ROUNDING = 1e-13  # of the values, by which a surface that is flat may differ from its interpolation
_MOST = 0.5  # of the grid; beyond, the rest is evaluated too
_ALL_TOGETHER = 1500  # points that are interpolated between at once; with more, the nearest hundred


class Visited(Protocol):
    """Points that can be evaluated; see :class:`landscape.walks.Walk`."""

    values: Array

    def visit(self, indices: Sequence[int] | Array) -> None:
        """Evaluate some points."""

    def from_first(self, array: Array) -> Array:
        """What the first process has computed, for all."""


class Filled(NamedTuple):
    """The columns of all points.

    Attributes:
        values: ``(points, columns)``.
        evaluated: ``(points,)``, whether each was evaluated.
        error: the largest difference between a loss and its interpolation, on points evaluated for this alone.
    """

    values: Array
    evaluated: Array
    error: float


@dataclass(frozen=True)
class Adaptive:
    """Evaluates points where the surface bends, and interpolates the others to a share of the range of losses.

    Begins with a few nodes, denser towards the edges. In each round the surface is interpolated by polyharmonic splines
    of two orders, r⁵ and r² log r. Points where the two disagree most, far from each other, and a quarter more at
    random are evaluated and held against the smoother one before they are added to it. It ends when the largest
    difference was at most half the tolerance in two rounds in a row; it is the result's ``interpolation_error``. Where
    more than half of the grid would be needed, a value is found that is not finite, or the grid has less than five
    values along an axis, everything is evaluated. What lies between the points that were evaluated is not seen: a hole
    of values that are not finite, or a spike, that is narrower than they are apart may be interpolated across.

    The tolerance is for losses, held-out ones included, each in shares of its own range: a surface with steep corners
    may have large relative errors near its minimum. Scores and standard errors are interpolated linearly, unchecked.

    Args:
        tolerance: largest error, as a share of the range of the losses on the grid; between 0 and 1.
        seed: of the points that are held out at random.

    Raises:
        ValueError: if the tolerance is not between 0 and 1, or the seed is negative.

    Source: polyharmonic splines, Duchon 1977; points where two models disagree, Seung, Opper and Sompolinsky 1992.

    >>> Adaptive(tolerance=0.02).settings()
    {'name': 'Adaptive', 'tolerance': 0.02, 'seed': 0}
    """

    tolerance: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        tolerance = real(self.tolerance, "tolerance")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, a share of the range of losses; got {self.tolerance}")
        integer(self.seed, "seed", least=0)

    def settings(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": "Adaptive", "tolerance": float(self.tolerance), "seed": int(self.seed)}

    def fill(self, walk: Visited, positions: Array, *, losses: Sequence[int]) -> Filled:
        """Evaluate some of the points and interpolate the others.

        Args:
            walk: evaluates points.
            positions: where each is, ``(points, axes)``: all combinations of the values along each axis, in any order.
            losses: which columns are losses.
        """
        _, first, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
        columns = [np.unique(column, return_inverse=True) for column in positions[first].T]
        columns = [(values, index) for values, index in columns if len(values) > 1]
        if not columns or min(len(values) for values, _ in columns) < _LEAST:
            return _everything(walk, len(positions))
        places = np.stack([2 * (v[i] - v[0]) / (v[-1] - v[0]) - 1 for v, i in columns], axis=1)
        nodes = np.all([np.isin(index, _nodes(len(values))) for values, index in columns], axis=0)
        found = self._refined(walk, first, places, nodes, losses)
        if found is None:
            return _everything(walk, len(positions))
        done, error = found
        values = walk.from_first(_interpolated(places, walk.values[first], done, losses))
        return Filled(values[inverse], done[inverse], error)

    def _refined(
        self, walk: Visited, index: Array, places: Array, done: Array, losses: Sequence[int]
    ) -> tuple[Array, float] | None:
        """Which points were evaluated, and the error that is left; None where all of them have to be."""
        generator = np.random.default_rng(self.seed)
        sure: list[float] = []
        walk.visit(index[done])
        while np.isfinite(walk.values[index[done]][:, losses]).all():
            if len(sure) == _SURE:
                return done, max(sure)
            number = max(_AT_LEAST * places.shape[1], int(_GROWTH * np.count_nonzero(done)))
            if np.count_nonzero(done) + number > _MOST * len(places):
                break
            rest = np.flatnonzero(~done)
            table = walk.values[index][:, losses]
            try:
                smooth, rough = (_spline(places[done], table[done], places[rest], kernel) for kernel in _KERNELS)
                chosen = _chosen(places, done, rest, np.abs(smooth - rough) / _range(table[done]), number, generator)
            except np.linalg.LinAlgError:
                chosen, smooth = np.arange(number), np.full((len(rest), len(losses)), math.nan)
            shared = walk.from_first(np.column_stack([rest[chosen], smooth[chosen]]).astype(np.float64))
            held_out, expected = shared[:, 0].astype(int), shared[:, 1:]
            walk.visit(index[held_out])
            done = done.copy()
            done[held_out] = True
            table = walk.values[index][:, losses]
            errors = np.abs(expected - table[held_out]).max(axis=0)
            allowed = self.tolerance / 2 * _range(table[done]) + _ROUNDING * np.abs(table[done]).max(axis=0)
            good = bool((errors <= allowed).all())  # not where it is NaN
            sure = [*sure, float(errors.max())] if good else []
        return None


_KERNELS = ("quintic", "thin_plate_spline")


def _everything(walk: Visited, number: int) -> Filled:
    walk.visit(range(number))
    return Filled(walk.values, np.ones(number, dtype=bool), math.nan)


def _nodes(number: int) -> Array:
    """Indices of a few values along an axis, the ends included, spaced like the extrema of a Chebyshev polynomial."""
    few = min(_FIRST, number)
    return np.unique(np.round((1 - np.cos(np.pi * np.arange(few) / (few - 1))) / 2 * (number - 1)).astype(int))


def _range(table: Array) -> Array:
    """Of each column, ``(columns,)``; not zero."""
    found: Array = np.maximum(table.max(axis=0) - table.min(axis=0), np.finfo(np.float64).tiny)
    return found


def _chosen(
    places: Array, done: Array, rest: Array, disagreement: Array, number: int, generator: np.random.Generator
) -> Array:
    """Which of the points that are left are evaluated next."""
    score = disagreement.max(axis=1)
    reach = (2.0 ** places.shape[1] / np.count_nonzero(done)) ** (1 / places.shape[1]) / 2  # about half a spacing
    chosen: list[int] = []
    for _ in range(number - int(_AT_RANDOM * number)):
        best = int(np.argmax(score))
        chosen.append(best)
        squares = ((places[rest] - places[rest[best]]) ** 2).sum(axis=1)
        score = score * (1 - np.exp(-squares / (2 * reach**2)))
        score[chosen] = -1
    left = np.setdiff1d(np.arange(len(rest)), chosen)
    return np.array([*chosen, *generator.choice(left, number - len(chosen), replace=False)])


def _spline(places: Array, values: Array, wanted: Array, kernel: str) -> Array:
    from scipy.interpolate import RBFInterpolator

    neighbors = None if len(places) <= _ALL_TOGETHER else 100
    interpolator: Any = RBFInterpolator
    found: Array = interpolator(places, values, kernel=kernel, neighbors=neighbors)(wanted)
    return found


def _interpolated(places: Array, values: Array, done: Array, losses: Sequence[int]) -> Array:
    """All columns at all points: losses by the spline, the others linearly between neighbours."""
    found = values.copy()
    rest = np.flatnonzero(~done)
    found[rest[:, None], losses] = _spline(places[done], values[done][:, losses], places[rest], _KERNELS[0])
    others = [i for i in range(values.shape[1]) if i not in losses and np.isfinite(values[done, i]).all()]
    if others:
        found[rest[:, None], others] = _linear(places[done], values[done][:, others], places[rest])
    return found


def _linear(places: Array, values: Array, wanted: Array) -> Array:
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    if places.shape[1] == 1:
        order = places[:, 0].argsort()
        return np.stack([np.interp(wanted[:, 0], places[order, 0], column[order]) for column in values.T], axis=1)
    found: Array = LinearNDInterpolator(places, values)(wanted)
    lost = np.isnan(found).any(axis=1)  # on the very edge, by rounding
    if lost.any():
        found[lost] = NearestNDInterpolator(places, values)(wanted[lost])
    return found
