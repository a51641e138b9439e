"""An answer of a checkpoint: a result, where it is kept, and how what is asked reports itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from landscape.results import Result

Kind = TypeVar("Kind", bound=Result)


@dataclass(frozen=True)
class Answer(Generic[Kind]):
    """A result and the file it is kept in."""

    result: Kind
    path: Path

    @property
    def way(self) -> str:
        """How products with the Hessian were computed, in brackets; empty where there were none."""
        words = self.result.manifest.get("machine", {}).get("products", "")
        return f" ({words})" if words else ""

    @property
    def is_cut_short(self) -> bool:
        """Whether the time ran out before the question had its full answer."""
        return is_cut_short(self.result)


def is_cut_short(result: Result) -> bool:
    """Whether the time ran out before a question had its full answer."""
    return "time" in str(getattr(result, "stopped", ""))
