"""What is asked about the loss around a checkpoint, under its protocol."""

from __future__ import annotations

import numpy as np

from analyses.answer import Answer
from analyses.subject import Subject
from landscape.answers import LineSlice, PlaneSlice, Sharpness
from landscape.directions import filter_normalized
from landscape.perturbations import GradientAscent
from landscape.progress import Progress
from landscape.sharpness import m_sharpness
from landscape.slices import line_slice, plane_slice


def sharpness(subject: Subject) -> Answer[Sharpness]:
    """m-sharpness under the ascent of SAM."""
    p, objective = subject.protocol, subject.objective
    ascent = GradientAscent(p.rho)
    size = min(p.microbatch_size, objective.num_examples)
    question = {"microbatch_size": size, **ascent.settings(), "order": objective.order}

    def ask(progress: Progress) -> Sharpness:
        return m_sharpness(objective, ascent, microbatch_size=size, progress=progress)

    return subject.remembered(Sharpness, "sharpness", question, ask)


def line(subject: Subject) -> Answer[LineSlice]:
    """The loss along one filter-normalised direction."""
    p, objective = subject.protocol, subject.objective

    def ask(progress: Progress) -> LineSlice:
        direction = filter_normalized(objective, seed=p.seed)
        coordinates = np.linspace(-p.reach, p.reach, p.line_points)
        return line_slice(objective, direction, coordinates=coordinates, progress=progress)

    return subject.remembered(LineSlice, "line", {"reach": p.reach, "points": p.line_points, "seed": p.seed}, ask)


def plane(subject: Subject) -> Answer[PlaneSlice]:
    """The loss over the plane of two orthogonal filter-normalised directions."""
    p, objective = subject.protocol, subject.objective

    def ask(progress: Progress) -> PlaneSlice:
        first = filter_normalized(objective, seed=p.seed)
        second = filter_normalized(objective, seed=p.seed + 1, orthogonal_to=first)
        grid = np.linspace(-p.reach, p.reach, p.plane_points)
        return plane_slice(objective, (first, second), x=grid, y=grid, progress=progress)

    return subject.remembered(PlaneSlice, "plane", {"reach": p.reach, "points": p.plane_points, "seed": p.seed}, ask)
