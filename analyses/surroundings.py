"""What is asked about the loss around a checkpoint, under its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.answer import Answer
from analyses.subject import Subject
from analyses.views import View
from landscape.answers import (
    Audit,
    AverageCaseSharpness,
    LineSlice,
    PlaneSlice,
    Sharpness,
    SharpnessCurve,
    SharpnessOverSizes,
    WorstCaseSharpness,
)
from landscape.auditing import audit as audit_of, usual_measures
from landscape.average_case import average_case_curve, average_case_sharpness
from landscape.perturbations import GradientAscent
from landscape.progress import Progress
from landscape.sampling import Adaptive
from landscape.sharpness import m_sharpness, m_sharpness_grid
from landscape.slices import line_slice, plane_slice
from landscape.worst_case import worst_case_curve, worst_case_sharpness


def sharpness(subject: Subject) -> Answer[Sharpness]:
    """m-sharpness under the ascent of SAM."""
    objective, ascent, size = subject.objective, GradientAscent(subject.protocol.rho), _size(subject)
    question = {"microbatch_size": size, **ascent.settings(), "order": objective.order}

    def ask(progress: Progress) -> Sharpness:
        return m_sharpness(objective, ascent, microbatch_size=size, progress=progress)

    return subject.remembered(Sharpness, "sharpness", question, ask)


def worst_case(subject: Subject) -> Answer[WorstCaseSharpness]:
    """The highest rise in the ball of m-sharpness, found by projected ascent on the same shards."""
    objective, ascent, size = subject.objective, GradientAscent(subject.protocol.rho), _size(subject)
    seed = subject.protocol.seed
    question = {"microbatch_size": size, **ascent.settings(), "order": objective.order, "seed": seed}

    def ask(progress: Progress) -> WorstCaseSharpness:
        return worst_case_sharpness(objective, ascent, microbatch_size=size, seed=seed, progress=progress)

    return subject.remembered(WorstCaseSharpness, "worst-case", question, ask)


def average_case(subject: Subject) -> Answer[AverageCaseSharpness]:
    """The mean rise under normal noise in the weights."""
    p, noise = subject.protocol, GradientAscent(subject.protocol.noise)

    def ask(progress: Progress) -> AverageCaseSharpness:
        return average_case_sharpness(subject.objective, noise, num_draws=p.draws, seed=p.seed, progress=progress)

    question = {"noise": p.noise, "draws": p.draws, "seed": p.seed}
    return subject.remembered(AverageCaseSharpness, "average-case", question, ask)


def sharpness_over(subject: Subject, grid: Sequence[int]) -> Answer[SharpnessOverSizes]:
    """m-sharpness over a grid of shard sizes, in one call that shares the work."""
    objective, ascent = subject.objective, GradientAscent(subject.protocol.rho)

    def ask(progress: Progress) -> SharpnessOverSizes:
        found = m_sharpness_grid(objective, ascent, microbatch_sizes=grid, progress=progress)
        return SharpnessOverSizes.of([result for (result,) in found])

    question = {"microbatch_sizes": sorted(grid), **ascent.settings(), "order": objective.order}
    return subject.remembered(SharpnessOverSizes, "sharpness-over-sizes", question, ask)


def worst_case_over(subject: Subject, grid: Sequence[float]) -> Answer[SharpnessCurve]:
    """Worst-case sharpness over a grid of radii."""
    objective, p, size = subject.objective, subject.protocol, _size(subject)

    def ask(progress: Progress) -> SharpnessCurve:
        ascent = GradientAscent(grid[0])
        return worst_case_curve(objective, ascent, rhos=grid, microbatch_size=size, seed=p.seed, progress=progress)

    question = {"rhos": list(grid), "microbatch_size": size, "order": objective.order, "seed": p.seed}
    return subject.remembered(SharpnessCurve, "worst-case-over-radii", question, ask)


def average_case_over(subject: Subject, grid: Sequence[float]) -> Answer[SharpnessCurve]:
    """Average-case sharpness over a grid of deviations of the noise."""
    p = subject.protocol

    def ask(progress: Progress) -> SharpnessCurve:
        noise = GradientAscent(grid[0])
        return average_case_curve(
            subject.objective, noise, rhos=grid, num_draws=p.draws, seed=p.seed, progress=progress
        )

    question = {"rhos": list(grid), "draws": p.draws, "seed": p.seed}
    return subject.remembered(SharpnessCurve, "average-case-over-radii", question, ask)


def audit(subject: Subject) -> Answer[Audit]:
    """How far the measures move when the model is rescaled into others that compute the same function."""
    p, objective, size = subject.protocol, subject.objective, _size(subject)
    ball, noise = GradientAscent(p.rho), GradientAscent(p.noise)
    measures = usual_measures(objective, rho=p.rho, microbatch_size=size, seed=p.seed) | {
        "worst-case sharpness": lambda o: worst_case_sharpness(o, ball, microbatch_size=size, seed=p.seed),
        "average-case sharpness": lambda o: average_case_sharpness(o, noise, num_draws=p.draws, seed=p.seed),
    }
    question = {"rho": p.rho, "microbatch_size": size, "noise": p.noise, "draws": p.draws, "seed": p.seed}

    def ask(progress: Progress) -> Audit:
        return audit_of(objective, measures, seed=p.seed, progress=progress)

    return subject.remembered(Audit, "audit", question | {"order": objective.order}, ask)


def line(subject: Subject, view: View | None = None) -> Answer[LineSlice]:
    """Losses and accuracies of both splits along a line, that of one filter-normalised direction when left out."""
    view = View() if view is None else view
    where, axis, coordinates = view.line(subject)
    question = {"points": subject.protocol.line_points, **_how(subject), **where}

    def ask(progress: Progress) -> LineSlice:
        also = _also(subject, subject.unfinished("line", question))
        return line_slice(subject.objective, axis, coordinates=coordinates, **also, progress=progress)

    return subject.remembered(LineSlice, "line", question, ask)


def plane(subject: Subject, view: View | None = None) -> Answer[PlaneSlice]:
    """Losses and accuracies of both splits over a plane, that of two filter-normalised directions when left out."""
    view = View(dims=2) if view is None else view
    where, directions, x, y = view.plane(subject)
    question = {"points": subject.protocol.plane_points, **_how(subject), **where}

    def ask(progress: Progress) -> PlaneSlice:
        also = _also(subject, subject.unfinished("plane", question))
        return plane_slice(subject.objective, directions, x=x, y=y, **also, progress=progress)

    return subject.remembered(PlaneSlice, "plane", question, ask)


def _size(subject: Subject) -> int:
    return min(subject.protocol.microbatch_size, subject.objective.num_examples)


def _how(subject: Subject) -> dict[str, Any]:
    """What decides the numbers at the points of a slice, whatever its directions."""
    tolerance = subject.protocol.tolerance
    held_out = subject.data["test set" if subject.held_out_split == "test" else "training set"]
    return {"held_out": held_out} | ({"tolerance": tolerance} if tolerance else {})


def _also(subject: Subject, kept: Path) -> dict[str, Any]:
    """What is read off at the points of a slice besides the loss, and how; ``kept`` is where finished points are."""
    tolerance = subject.protocol.tolerance
    sampling = Adaptive(tolerance=tolerance) if tolerance else None
    return {"held_out": subject.held_out, "score": subject.score, "sampling": sampling, "kept": kept}
