"""Made-up slices with all that they can have."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.answers import LineSlice, PlaneSlice

MANIFEST = {"objective": {"split": "train"}, "held_out": {"split": "test"}}
LONG = "mASAM, 16 micro-batches, lr 0.05, momentum 0.95, rho 0.05, weight_decay 0.0005"
AT = np.linspace(-0.5, 1.5, 9)


def line(i: int = 0, **more: Any) -> LineSlice:
    """0.1 + (1 + i) t²"""
    return LineSlice(coordinates=AT, losses=0.1 + (1 + i) * AT**2, length=3.0, manifest=MANIFEST, **more)


def whole_line(i: int = 0) -> LineSlice:
    """Held-out losses 0.5 + (1 + i) t², accuracies, standard errors, marks, and points that are interpolated."""
    evaluated = np.arange(9) % 2 == 0
    return line(
        i,
        stderrs=np.full(9, 0.05),
        scores=1 / (1 + AT**2),
        held_out_losses=0.5 + (1 + i) * AT**2,
        held_out_stderrs=np.full(9, 0.1),
        held_out_scores=0.5 / (1 + AT**2),
        score="accuracy",
        evaluated=evaluated,
        interpolation_error=0.0225 * (1 + i),  # one per cent of the range, 2.25 (1 + i)
        marks=np.array([0.0, 1.0]),
        mark_names=np.array(["the model", f"run {i}"]),
    )


def plane(i: int = 0, *, x: Any = None, y: Any = None, **more: Any) -> PlaneSlice:
    """0.1 + (1 + i) (x² + 2 y²)"""
    x = np.linspace(-2, 6, 9) if x is None else np.asarray(x, dtype=float)
    y = np.linspace(-2, 2, 5) if y is None else np.asarray(y, dtype=float)
    losses = 0.1 + (1 + i) * (x[None, :] ** 2 + 2 * y[:, None] ** 2)
    return PlaneSlice(
        x=x, y=y, losses=more.pop("losses", losses), lengths=np.ones(2), cosine=0.0, manifest=MANIFEST, **more
    )


def plane_with_path(i: int = 0, **more: Any) -> PlaneSlice:
    """A path that comes from (5, -1) to the model."""
    path = np.array([[5.0, -1.0], [3.0, 1.0], [1.0, 0.5], [0.0, 0.0]])
    distances = np.array([0.1, 0.42, 0.3, 0.0])
    return plane(i, path=path, path_distances=distances, explained=np.array([0.81, 0.124]), **more)


def whole_plane(i: int = 0) -> PlaneSlice:
    """A path, held-out losses and accuracies."""
    losses = plane(i).losses
    more = {"held_out_losses": losses + 1, "scores": 1 / (1 + losses), "held_out_scores": 0.5 / (1 + losses)}
    return plane_with_path(i, score="accuracy", **more)
