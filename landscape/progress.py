"""How a long computation reports: ``progress(done, total)``, called after each unit of work of a stage."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
Report = Callable[[str], Progress]  # the name of a stage -> its progress


def silent(done: int, total: int) -> None:
    """Report nothing."""


def unreported(stage: str) -> Progress:
    """Report nothing of any stage."""
    del stage
    return silent
