"""The picture for each kind of result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from analyses.results import CurvatureInTraining, RunTable
from figures.audit import draw_audit
from figures.comparison import draw_flatness_vs_m, draw_measures
from figures.curvature import draw_density, draw_diagonal, draw_eigenvalues, draw_norm, draw_trace
from figures.lines import draw_lines
from figures.paths import draw_paths
from figures.planes import draw_planes
from figures.radii import draw_curves, draw_sigmas, draw_sizes
from figures.sharpness import draw_layers, draw_samples, draw_sharpness
from figures.training import draw_training
from landscape.answers import (
    Audit,
    AverageCaseSharpness,
    DiagonalEstimate,
    Eigenpairs,
    FisherRaoNorm,
    KeskarSharpness,
    LineSlice,
    LowPassFlatness,
    NormEstimate,
    PacBayesSigma,
    PathLosses,
    PlaneSlice,
    RelativeFlatness,
    Sharpness,
    SharpnessCurve,
    SharpnessOverSizes,
    SpectralDensity,
    TraceEstimate,
    WorstCaseSharpness,
)
from landscape.results import Result


def draw(results: Mapping[str, Result]) -> Figure:
    """Results of one kind, by label, in one figure.

    Raises:
        ValueError: if there is none, if they are of several kinds, or if there is no picture of that kind.
    """
    kinds = {type(result) for result in results.values()}
    if len(kinds) != 1:
        raise ValueError(
            f"a figure shows results of one kind; got {', '.join(sorted(k.__name__ for k in kinds)) or 'none'}"
        )
    (kind,) = kinds
    if kind not in _PICTURES:
        raise ValueError(f"there is no picture of a {kind.__name__}")
    return _PICTURES[kind](results)


def _draw_table(results: Mapping[str, RunTable]) -> Figure:
    if len(results) > 1:
        raise ValueError("a figure shows one comparison at a time; name a single one")
    (table,) = results.values()
    return draw_flatness_vs_m(table) if table.varies_in_microbatches_alone else draw_measures(table)


_PICTURES: dict[type[Result], Callable[[Mapping[str, Any]], Figure]] = {
    Eigenpairs: draw_eigenvalues,
    TraceEstimate: draw_trace,
    DiagonalEstimate: draw_diagonal,
    NormEstimate: draw_norm,
    SpectralDensity: draw_density,
    Sharpness: draw_sharpness,
    WorstCaseSharpness: draw_sharpness,
    FisherRaoNorm: draw_sharpness,
    AverageCaseSharpness: draw_samples,
    LowPassFlatness: draw_samples,
    KeskarSharpness: draw_samples,
    RelativeFlatness: draw_layers,
    SharpnessCurve: draw_curves,
    SharpnessOverSizes: draw_sizes,
    PacBayesSigma: draw_sigmas,
    Audit: draw_audit,
    LineSlice: draw_lines,
    PlaneSlice: draw_planes,
    PathLosses: draw_paths,
    CurvatureInTraining: draw_training,
    RunTable: _draw_table,
}
