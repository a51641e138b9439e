"""How a long computation reports: ``progress(done, total)``, called after each unit of work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Report nothing."""
