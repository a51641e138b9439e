"""The figures of the comparison report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from analyses.results import Picture, RunTable
from figures.comparison import draw_flatness_vs_m, draw_measures
from figures.curvature import draw_density
from figures.heights import shows_rise
from figures.lines import draw_lines
from figures.planes import draw_planes
from figures.style import render
from landscape.answers import LineSlice, PlaneSlice, SpectralDensity

Kind = TypeVar("Kind")
MOST = 9  # ways of training that one figure can tell apart


def pictures(
    table: RunTable,
    densities: Mapping[str, SpectralDensity],
    lines: Mapping[str, LineSlice],
    planes: Mapping[str, PlaneSlice],
) -> list[Picture]:
    """All figures, in the order of the report.

    Args:
        table: the measures of every run.
        densities: of one run of each group, by the name of the group; likewise the others.
        lines: see above.
        planes: see above.
    """
    dots = (
        "Small dots are single runs with the uncertainty of the measurement; diamonds are means over seeds."
        if table.has_repeats
        else "Each diamond is a single run; bars are the uncertainty of the measurement."
    )
    lower = "In the first three panels lower is flatter."
    if table.varies_in_microbatches_alone:
        base = table.groups[table.num_microbatches == 0]
        line = f" The dashed line is {base[0]}, without perturbation." if base.size else ""
        found = [
            Picture(
                "Flatness against the number of micro-batches",
                f"{dots}{line} {lower}",
                render(draw_flatness_vs_m(table), "svg"),
            )
        ]
    else:
        title = f"Flatness and {'accuracy' if table.tells_classes else 'test loss'}"
        found = [Picture(title, f"{dots} {lower}", render(draw_measures(table), "svg"))]
    chosen = _chosen(table)
    several = len(table.group_names) > 1
    found += [
        Picture(
            "Spectrum of the Hessian" if not several else "Spectra of the Hessian",
            f"{chosen}Density of the eigenvalues, averaged over random probes, on a log scale. In "
            "trained networks most of the mass is close to zero; isolated humps to the right are single large "
            f"eigenvalues, or a few close together.{_dots(_first(densities))}",
            render(draw_density(_first(densities)), "svg"),
        ),
        Picture(
            "The loss along a line",
            f"{chosen}Along random numbers{', the same for all' if several else ''}, scaled filter by filter to the "
            f"weights of {'each' if several else 'the'} run.{_rise(_first(lines), 'the legend')}"
            + _lost(_first(lines), "crosses on the lower edge"),
            render(draw_lines(_first(lines)), "svg"),
        ),
        Picture(
            "The loss over a plane",
            f"{chosen}Two orthogonal filter-normalised directions; {'one colour scale for all; ' if several else ''}"
            f"the cross is the model.{_rise(_first(planes), 'each title')}" + _lost(_first(planes), "hatches"),
            render(draw_planes(_first(planes)), "svg"),
        ),
    ]
    return found


def _chosen(table: RunTable) -> str:
    """Which runs are drawn, where not all are."""
    firsts = [i for i in table.first_runs[:MOST] if not table.of_unknown_training[i]]
    seeds = dict.fromkeys(table.seeds[firsts].tolist())
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    groups = len(table.group_names)
    cut = f"The first {MOST} of {groups} are drawn. " if groups > MOST else ""
    if not table.has_repeats:
        return cut
    return f"One run {'of each way of training' if groups > 1 else 'of several'}, {named}. {cut}"


def _rise(results: Mapping[str, LineSlice] | Mapping[str, PlaneSlice], where: str) -> str:
    """What is drawn instead of the loss, where runs are compared."""
    if not shows_rise(results):
        return ""
    return f" Drawn is the rise above the run's own loss L(w), which {where} states: so shapes compare on one scale."


def _dots(densities: Mapping[str, SpectralDensity]) -> str:
    """What the dots are, where there are some."""
    known = any(len(density.outliers) for density in densities.values())
    return " Dots are the largest eigenvalues, found one by one." if known else ""


def _lost(results: Mapping[str, LineSlice] | Mapping[str, PlaneSlice], marks: str) -> str:
    """What stands where there is nothing to draw."""
    if all(np.isfinite(result.losses).all() for result in results.values()):
        return ""
    return f" Where the loss is not finite there are {marks}."


def _first(results: Mapping[str, Kind]) -> dict[str, Kind]:
    return dict(list(results.items())[:MOST])
