"""The examples of an objective in their order, and the portions of them that are taken together."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from landscape.batches import Batch, num_examples, take
from landscape.chunks import merged


class Rows:
    """Examples by their place in the data.

    Args:
        batches: the data; neighbours of one shape are put together.

    >>> import torch
    >>> rows = Rows([torch.arange(3), torch.arange(3, 5), torch.zeros(1, 1)])
    >>> [batch.tolist() for batch in rows.take(2, 6)]
    [[2, 3, 4], [[0.0]]]
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.pieces = merged(batches)
        self.borders = [0, *itertools.accumulate(num_examples(piece) for piece in self.pieces)]

    @property
    def number(self) -> int:
        """All examples."""
        return self.borders[-1]

    def take(self, start: int, stop: int) -> list[Batch]:
        """Examples ``start`` to ``stop``, one batch for each stretch of one shape."""
        first, last = bisect.bisect_right(self.borders, start) - 1, bisect.bisect_left(self.borders, stop) - 1
        parts = []
        for index in range(first, last + 1):
            offset = self.borders[index]
            parts.append(take(self.pieces[index], max(start - offset, 0), min(stop, self.borders[index + 1]) - offset))
        return parts


@dataclass(frozen=True)
class Run:
    """Neighbouring shards of one size.

    Attributes:
        asked: the size that was asked for.
        size: examples in each, fewer than asked for in the last shard of the data.
        first: the number of the first shard.
        number: of shards.

    >>> run = Run(asked=4, size=4, first=2, number=3)
    >>> run.start, run.stop
    (8, 20)
    """

    asked: int
    size: int
    first: int
    number: int

    @property
    def start(self) -> int:
        """The first example."""
        return self.first * self.asked

    @property
    def stop(self) -> int:
        """The end of the examples."""
        return self.start + self.number * self.size

    def cut(self, number: int) -> tuple[Run, Run | None]:
        """The first shards, so many at most, and the rest."""
        if number >= self.number:
            return self, None
        rest = Run(self.asked, self.size, self.first + number, self.number - number)
        return Run(self.asked, self.size, self.first, number), rest


@dataclass(frozen=True)
class Portion:
    """The shards of several sizes that start in one stretch of the data.

    Attributes:
        begin: of the stretch.
        end: of the stretch.
        border: where examples of another shape begin, or the data end.
        total: all examples of the data.
        sizes: of shards.

    >>> Portion(0, 4, 7, 7, (3,)).runs
    [Run(asked=3, size=3, first=0, number=2)]
    """

    begin: int
    end: int
    border: int
    total: int
    sizes: tuple[int, ...]

    @property
    def runs(self) -> list[Run]:
        """The shards that lie before the border, size by size."""
        found = []
        for size in self.sizes:
            first, last = self._numbers(size)
            whole = min(last, self.border // size)
            if whole > first:
                found.append(Run(size, size, first, whole - first))
            if first <= whole < last and self.border == self.total:
                found.append(Run(size, self.total - whole * size, whole, 1))
        return found

    @property
    def crossing(self) -> list[tuple[int, int]]:
        """Size and number of the shards that go on beyond the border."""
        if self.border == self.total:
            return []
        return [(size, last - 1) for size in self.sizes for first, last in [self._numbers(size)]
                if last > first and last * size > self.border]  # fmt: skip

    @property
    def shards(self) -> list[tuple[int, int]]:
        """Size and number of all."""
        return [(size, number) for size in self.sizes for number in range(*self._numbers(size))]

    def halves(self) -> list[Portion]:
        """Two parts, or none where there is a single place to start at."""
        middle = (self.begin + self.end) // 2
        if middle == self.begin:
            return []
        return [replace(self, end=middle), replace(self, begin=middle)]

    def _numbers(self, size: int) -> tuple[int, int]:
        """Those that start in the stretch."""
        return -(-self.begin // size), -(-self.end // size)


def portions(rows: Rows, sizes: Sequence[int], *, most: int, number: int) -> list[Portion]:
    """All shards, in portions of about ``most`` examples.

    Sizes are nested in portions where that is possible, so that no example is in two; there is one portion for each of
    ``number`` processes at least, if there are enough examples.

    >>> import torch
    >>> [(part.begin, part.end) for part in portions(Rows([torch.arange(10)]), [2, 4], most=8, number=1)]
    [(0, 8), (8, 10)]
    """
    largest, nested = max(sizes), math.lcm(*sizes)
    unit, room = (nested, most) if nested <= most else (largest, most - largest)
    share = -(-rows.number // number)
    length = max(unit, (-(-share // unit) if share <= room else room // unit) * unit)
    found = []
    for start, border in itertools.pairwise(rows.borders):
        places = [start, *range((start // length + 1) * length, border, length), border]
        found += [Portion(a, b, border, rows.number, tuple(sizes)) for a, b in itertools.pairwise(places)]
    return found
