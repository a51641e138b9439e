"""The solutions of a homogeneous linear system, in a basis that is as local as can be."""

from __future__ import annotations

import numpy as np

from landscape.results import Array

_ZERO = 1e-6  # of entries next to the largest of their row, which is 1
_STEPS = 4  # entries are wanted as multiples of a fourth; others are kept as they are


def null_space(A: Array, scales: Array, *, tolerance: float) -> Array:
    """All s with A (scales · s) = 0, one basis vector to a row, ``(k, n)``.

    Args:
        A: ``(rows, n)``, with columns of norm 1 at the most.
        scales: ``(n,)``, positive.
        tolerance: singular values up to it, next to the largest, count as zero.

    >>> null_space(np.array([[1.0, 1.0, 0.0]]), np.ones(3), tolerance=1e-9).round(12).tolist()
    [[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    _, values, rows = np.linalg.svd(A, full_matrices=True)
    large = np.zeros(A.shape[1], dtype=bool)
    large[: len(values)] = values > tolerance * max(1.0, values.max(initial=0))
    return local(rows[~large] / scales)


def local(basis: Array) -> Array:
    """Another basis of the same space, ``(k, n)``, whose vectors begin and end at different places, and soon.

    Of all bases it has the shortest spans between first and last entry (the minimal-span form of trellises, Kschischang
    and Sorokine 1995). Within its span each vector is then made as sparse as the others can make it. Its first entry is
    positive, its smallest in magnitude 1; entries are rounded to multiples of a fourth where they are close to one.
    """
    rows = _echelon(np.array(basis, dtype=float))
    shortened = True
    while shortened:
        shortened = False
        for i, j in ((i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j):
            (begin, end), (start, stop) = _span(rows[i]), _span(rows[j])
            if end == stop and begin < start:  # the longer one ends earlier without a multiple of the shorter one
                rows[i] = _clean(rows[i] - rows[i, end] / rows[j, end] * rows[j])
                shortened = True
    for i, row in enumerate(rows):
        for other in (other for j, other in enumerate(rows) if j != i and _within(other, row)):
            ratios = {round(float(ratio), 6) for ratio in row[other != 0] / other[other != 0]} - {0.0}
            choices = [_clean(rows[i] - ratio * other) for ratio in sorted(ratios)]
            rows[i] = min([rows[i], *choices], key=np.count_nonzero)
    return np.array([_whole(row) for row in rows]).reshape(len(rows), basis.shape[1])


def _echelon(rows: Array) -> Array:
    """The reduced echelon form: all vectors begin at different places, in order."""
    done = 0
    for column in range(rows.shape[1]):
        rows /= np.maximum(np.abs(rows).max(axis=1, initial=0, keepdims=True), np.finfo(float).tiny)
        if done == len(rows):
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[best, column]) <= _ZERO:
            rows[done:, column] = 0
            continue
        rows[[done, best]] = rows[[best, done]]
        for i in range(len(rows)):
            if i != done:
                rows[i] = _clean(rows[i] - rows[i, column] / rows[done, column] * rows[done])
                rows[i, column] = 0
        done += 1
    return np.array([_clean(row) for row in rows[:done]]).reshape(done, rows.shape[1])


def _clean(row: Array) -> Array:
    return np.where(np.abs(row) > _ZERO * max(np.abs(row).max(), _ZERO), row, 0)


def _span(row: Array) -> tuple[int, int]:
    places = np.flatnonzero(row)
    return int(places[0]), int(places[-1])


def _within(other: Array, row: Array) -> bool:
    (start, stop), (begin, end) = _span(other), _span(row)
    return begin < start and stop < end


def _whole(row: Array) -> Array:
    first = row[np.flatnonzero(row)[0]]
    row = row * np.sign(first) / np.abs(row[row != 0]).min()
    near = np.round(row * _STEPS) / _STEPS
    return np.where(np.abs(near - row) < 1e-4, near, row) + 0.0  # no negative zeros
