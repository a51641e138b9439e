"""What pictures of slices have in common: the heights that are drawn, their scales, and what is said beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np

from landscape.answers import LineSlice, PlaneSlice
from landscape.results import Array

Slices = Mapping[str, LineSlice] | Mapping[str, PlaneSlice]
WIDEST = 20  # the ratio of the highest to the lowest loss from which on scales are logarithmic


def shows_rise(results: Slices) -> bool:
    """Whether rises above L(w) are drawn: of several results, where the model itself lies on the grid of each."""
    return len(results) > 1 and all(_at_origin(result, result.losses) is not None for result in results.values())


def heights(results: Slices, *, held_out: bool = False) -> dict[str, Array]:
    """What is drawn of each result that has it: its losses, or their rises above the loss of the model."""
    found = {}
    for label, result in results.items():
        losses = result.held_out_losses if held_out else result.losses
        if losses is not None:
            with np.errstate(invalid="ignore"):  # of a model whose own loss is not finite there is no rise
                found[label] = losses - _at_origin(result, losses) if shows_rise(results) else losses
    return found


def at_model(results: Slices, label: str, *, held_out: bool = False) -> list[str]:
    """``L(w) = 0.123``, where rises above it are drawn."""
    result = results[label]
    losses = result.held_out_losses if held_out else result.losses
    if not shows_rise(results) or losses is None:
        return []
    return [f"L(w) = {_at_origin(result, losses):#.3g}"]


def splits(results: Slices) -> tuple[str, str]:
    """The names of the data and of the held-out data, as the manifests have them."""
    own, other = "", ""
    for result in results.values():
        own = own or str(result.manifest.get("objective", {}).get("split", ""))
        other = other or str(result.manifest.get("held_out", {}).get("split", ""))
    return own or "data", other if other and other != own else "held-out data"


def interpolated(results: Slices) -> str:
    """A sentence on the points that were not evaluated, and the error there; empty where all were."""
    some = {label: result for label, result in results.items() if result.num_evaluated < result.losses.size}
    if not some:
        return ""
    least = min(some.values(), key=lambda result: result.num_evaluated / result.losses.size)
    errors = [100 * result.interpolation_error / _range(result.losses) for result in some.values()]
    known = [error for error in errors if np.isfinite(error)]
    error = f"largest error seen {max(known):.2g} % of the range" if known else "their error was not measured"
    few = "" if len(some) == 1 else "as few as "
    return f"{few}{least.num_evaluated} of {least.losses.size} points evaluated, the others interpolated: {error}"


def loss_scale(finite: Array) -> tuple[Array, mpl.colors.Normalize, str]:
    """Levels, norm and name: logarithmic where positive losses span more than a factor of twenty."""
    low, high = span(finite)
    if low > 0 and high / low > WIDEST:
        return np.geomspace(low, high, 17), mpl.colors.LogNorm(low, high), " (log scale)"
    return linear_scale(finite)


def linear_scale(finite: Array) -> tuple[Array, mpl.colors.Normalize, str]:
    """Levels, norm and name of an even scale."""
    low, high = span(finite)
    return np.linspace(low, high, 17), mpl.colors.Normalize(low, high), ""


def root_scale(finite: Array) -> tuple[Array, mpl.colors.Normalize, str]:
    """Levels, norm and name of a scale on which the contours of a round bowl, flat or steep, are evenly spaced."""
    low, high = span(finite)
    roots = _signed_root(np.array([low, high]))
    levels = _signed_square(np.linspace(roots[0], roots[1], 17))
    levels[[0, -1]] = low, high
    return levels, mpl.colors.FuncNorm((_signed_root, _signed_square), low, high), "\n(square-root scale)"


def finite_of(arrays: Iterable[Array]) -> Array:
    """All finite numbers of several arrays."""
    return np.concatenate([array[np.isfinite(array)] for array in arrays])


def span(finite: Array) -> tuple[float, float]:
    """The lowest and the highest, a little apart where all are the same."""
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def told_apart(levels: Array) -> list[str]:
    """Numbers with three digits, or with as many as it takes until no two read the same."""
    for digits in range(3, 17):
        labels = [f"{level:.{digits}g}".replace("-", "−") for level in levels]
        if len(set(labels)) == len(labels):
            break
    return labels


def _at_origin(result: LineSlice | PlaneSlice, losses: Array) -> float | None:
    """L(w), the loss at the origin; None where that is no point of the grid."""
    axes = (result.coordinates,) if isinstance(result, LineSlice) else (result.y, result.x)
    places = [np.flatnonzero(np.abs(axis) <= 1e-9 * np.abs(axis).max()) for axis in axes]
    if not all(place.size for place in places):
        return None
    return float(losses[tuple(place[0] for place in places)])


def _range(losses: Array) -> float:
    low, high = span(finite_of([losses]))
    return high - low


def _signed_root(values: Array) -> Array:
    found: Array = np.sign(values) * np.sqrt(np.abs(values))
    return found


def _signed_square(values: Array) -> Array:
    found: Array = np.sign(values) * np.square(values)
    return found
