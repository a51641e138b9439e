"""Every question of a protocol, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analyses import curvature, surroundings
from analyses.answer import Answer
from analyses.subject import Subject

QUESTIONS: Mapping[str, Callable[[Subject], Answer[Any]]] = {
    "eigenvalues": curvature.eigenvalues,
    "trace": curvature.trace,
    "density": curvature.density,
    "sharpness": surroundings.sharpness,
    "worst_case": surroundings.worst_case,
    "average_case": surroundings.average_case,
    "line": surroundings.line,
    "plane": surroundings.plane,
}


def ask(subject: Subject, question: str) -> Answer[Any]:
    """The answer of a subject to one of the ``QUESTIONS``."""
    return QUESTIONS[question](subject)
