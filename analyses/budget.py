"""A limit on the time of a measurement, and how questions share it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
LEAST = 1e-3  # seconds; whoever is given them does the least that gives an answer


def seconds_of(duration: str) -> float:
    """The seconds of a duration such as ``90``, ``60s``, ``1.5m`` or ``1h``.

    Raises:
        ValueError: if it is none, or not positive.

    >>> seconds_of("2m")
    120.0
    """
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([smh]?)", duration.strip().lower())
    seconds = float(found[1]) * UNITS[found[2]] if found else math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"a budget is a duration above zero, such as 60s, 2m, 1h or 90; got {duration!r}")
    return seconds


class Budget:
    """Seconds from now on, shared by questions in proportion; what one does not use is for those after it.

    Args:
        seconds: all there are.
        shares: question -> its part, relative to the others.
        clock: seconds that go by.

    >>> budget = Budget(60.0, {"eigenvalues": 2, "trace": 1}, clock=lambda: 0.0)
    >>> budget.allot("eigenvalues"), budget.allot("trace")
    (40.0, 60.0)
    """

    def __init__(
        self, seconds: float, shares: Mapping[str, float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._shares = dict(shares)
        self._clock = clock
        self._started = clock()

    @property
    def left(self) -> float:
        """The seconds that are left, zero when they have been used."""
        return max(0.0, self.seconds - (self._clock() - self._started))

    def allot(self, question: str) -> float:
        """The seconds for a question that is asked now: its share of what is left, with those not yet asked."""
        parts = sum(self._shares.values())
        share = self._shares.pop(question)
        return max(LEAST, self.left * share / parts)

    def forgo(self, question: str) -> None:
        """Leave the share of a question, if it still has one, to the others."""
        self._shares.pop(question, None)
