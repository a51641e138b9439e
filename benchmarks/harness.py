"""Timing that can be believed: candidates in turn, ratios within a round, and how busy the machine was."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

INTERVAL = "median (95 % interval of it, least to most of fewer than six)"


@dataclass(frozen=True)
class Ratio:
    """A candidate's time as a multiple of the reference's: the median over the rounds, and how well it is known.

    Attributes:
        low: where an interval begins that holds the median of endlessly many rounds with a chance of 95 % or more,
            whatever their distribution: one of the values in order, as the binomial distribution has it. Of fewer than
            six rounds it is the least.
        median: of the rounds.
        high: where that interval ends.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Ratio:
        """From one ratio per round.

        >>> Ratio.of([float(value) for value in range(1, 101)])
        Ratio(low=40.0, median=50.5, high=61.0)
        """
        ordered = sorted(values)
        place = max(int(stats.binom.ppf(0.025, len(ordered), 0.5)), 1)
        return cls(ordered[place - 1], statistics.median(ordered), ordered[-place])

    def __truediv__(self, number: float) -> Ratio:
        return Ratio(self.low / number, self.median / number, self.high / number)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def compare(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, reference: str, warm: int = 1
) -> tuple[dict[str, Ratio], float]:
    """Time candidates one after the other, round by round, after those that do not count.

    Args:
        candidates: what to time, by name; each is to be done when it returns.
        rounds: that count.
        warm: rounds before that do not count; none where all candidates have run before.
        reference: the candidate that the others are divided by, within each round.

    Returns:
        Each candidate's ratio to the reference, and the share of the machine that other processes took.
    """
    for _ in range(warm):
        for run in candidates.values():
            run()
    ratios: dict[str, list[float]] = {name: [] for name in candidates}
    busy, started = _busy_seconds(), time.perf_counter()
    own = sum(os.times()[:2])
    for _ in range(rounds):
        seconds = {}
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - begin
        for name in candidates:
            ratios[name].append(seconds[name] / seconds[reference])
    elapsed = (time.perf_counter() - started) * (os.cpu_count() or 1)
    others = max(0.0, _busy_seconds() - busy - (sum(os.times()[:2]) - own)) / elapsed
    return {name: Ratio.of(values) for name, values in ratios.items()}, others


def _busy_seconds() -> float:
    """Processor seconds that all processes together have used; zero where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system = map(int, stat.read_text().splitlines()[0].split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
