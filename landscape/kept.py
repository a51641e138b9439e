"""Finished points of a grid in a file, so that a grid that was killed goes on from there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.files import require_writable
from landscape.frozen import frozen
from landscape.manifest import differences
from landscape.results import Array, Line, Result

EVERY = 5.0  # seconds between two writes


@dataclass(frozen=True, kw_only=True)
class FinishedPoints(Result):
    """Points of a grid that have been evaluated.

    Attributes:
        values: ``(points, columns)``, meaningless where a point is not finished.
        finished: ``(points,)``, which of them are.
    """

    values: Array
    finished: Array

    title: ClassVar[str] = "finished points of a grid"

    def summary(self) -> dict[str, Any]:
        """How many there are."""
        return {"num_points": int(self.finished.size), "num_finished": int(np.count_nonzero(self.finished))}

    def lines(self) -> list[Line]:
        """How many there are."""
        return [Line("finished points", self.summary()["num_finished"], None, f"of {self.finished.size}")]

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        return pd.DataFrame(self.values).assign(finished=self.finished)


class Kept:
    """A file that finished points are written to, and read from.

    It stays when the grid is complete: nothing is lost before the result is saved, and the same question is answered
    from it at once. Whoever has saved the result may remove it.

    Args:
        path: of the file.
        question: everything that decides the numbers.
    """

    def __init__(self, path: str | Path, question: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._question = frozen(question)
        self._written = time.monotonic()
        require_writable(self.path)

    def read(self, values: Array, finished: Array) -> None:
        """Fill in what the file holds, if there is one.

        Raises:
            ValueError: if it holds something else, or points of another question; it is left as it is.
        """
        if not self.path.exists():
            return
        try:
            found = FinishedPoints.load(self.path)
        except ValueError as error:
            raise ValueError(f"kept={str(self.path)!r} cannot be gone on with: {error}") from None
        others = differences(found.manifest, self._question)
        if others or found.values.shape != values.shape:
            raise ValueError(
                f"kept={str(self.path)!r} holds points of another question, which differ in "
                f"{'; '.join(others) or 'their number'}. They are left as they are: name another file, or remove it."
            )
        values[:], finished[:] = found.values, found.finished

    def write(self, values: Array, finished: Array, *, now: bool = True) -> None:
        """Write what is finished, whole or not at all; unless ``now``, not more often than every few seconds."""
        if now or time.monotonic() - self._written >= EVERY:
            FinishedPoints(values=values, finished=finished, manifest=self._question).save(self.path)
            self._written = time.monotonic()
