"""The figures of the comparison report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from analyses.results import Picture, RunTable
from figures.comparison import draw_flatness_vs_m, draw_measures
from figures.curvature import draw_density
from figures.slices import draw_lines, draw_planes
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
        found = [
            Picture(
                "Flatness against the number of micro-batches",
                f"{dots} The dashed line is the base optimizer, without perturbation. {lower}",
                render(draw_flatness_vs_m(table), "svg"),
            )
        ]
    else:
        found = [Picture("Flatness and accuracy", f"{dots} {lower}", render(draw_measures(table), "svg"))]
    seed = f"One run of each way of training, seed {min(table.seeds.tolist())}."
    cut = "" if len(densities) <= MOST else f" The first {MOST} of {len(densities)} are drawn."
    found += [
        Picture(
            "Spectra of the Hessian",
            f"{seed}{cut} Density of the eigenvalues, averaged over random probes, on a log scale: nearly all lie "
            "close to zero. Isolated humps to the right are single large eigenvalues, or a few close together.",
            render(draw_density(_first(densities)), "svg"),
        ),
        Picture(
            "The loss along a line",
            f"{seed}{cut} All along the same random numbers, scaled filter by filter to the weights of each run.",
            render(draw_lines(_first(lines)), "svg"),
        ),
        Picture(
            "The loss over a plane",
            f"{seed}{cut} Two orthogonal filter-normalised directions; one colour scale for all; "
            "the cross is the model.",
            render(draw_planes(_first(planes)), "svg"),
        ),
    ]
    return found


def _first(results: Mapping[str, Kind]) -> dict[str, Kind]:
    return dict(list(results.items())[:MOST])
