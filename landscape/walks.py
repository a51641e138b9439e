"""Points of a grid that are evaluated once each: by this process or by several, kept in a file, gone on with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.kept import Kept
from landscape.precision import widest
from landscape.processes import Sharing
from landscape.progress import Progress
from landscape.results import Array

ROUND = 5.0  # seconds between two exchanges, at the most eight times the points of the round before


class Walk:
    """The points of a grid, each evaluated when it is first asked for.

    Args:
        at: the columns of a point, by its index.
        number: of points.
        columns: how many each has.
        sharing: processes that points are spread over; all of them ask for the same ones.
        question: a hash of what decides the numbers, in which processes must agree.
        kept: file that finished points are kept in.
        progress: called with the points done and their number.
        like: a tensor on the device that exchanges go through.

    Attributes:
        values: ``(number, columns)``, NaN where a point has not been evaluated.
        finished: ``(number,)``, which points have been.

    Raises:
        ValueError: if processes ask different questions, or the file holds another one.
    """

    def __init__(
        self,
        at: Callable[[int], list[float]],
        number: int,
        columns: int,
        *,
        sharing: Sharing,
        question: str,
        kept: Kept | None,
        progress: Progress,
        like: Tensor,
    ) -> None:
        self._at = at
        self._sharing = sharing
        self._kept = kept if sharing.is_first else None
        self._progress = progress
        self._device = like.device
        self.values = np.full((number, columns), math.nan)
        self.finished = np.zeros(number, dtype=bool)
        self._begin(question)

    def visit(self, indices: Sequence[int] | Array) -> None:
        """Evaluate those of the points that have not been.

        Whatever ends it early, what is finished is in the file then.

        Raises:
            ProcessLostError: if another process has died or failed.
        """
        waiting = [int(i) for i in indices if not self.finished[i]]
        try:
            if self._sharing.number == 1:
                self._alone(waiting)
            else:
                self._together(waiting)
        finally:
            if self._kept is not None and waiting:
                self._kept.write(self.values, self.finished)

    def from_first(self, array: Array) -> Array:
        """What the first process has computed, for all of them, in one exchange."""
        if self._sharing.number == 1:
            return array
        return self._summed(array if self._sharing.is_first else np.zeros_like(array))[0]

    def _alone(self, waiting: Sequence[int]) -> None:
        done = int(self.finished.sum())
        for number, index in enumerate(waiting, start=done + 1):
            self._evaluate(index)
            if self._kept is not None:
                self._kept.write(self.values, self.finished, now=False)
            self._progress(number, len(self.finished))

    def _evaluate(self, index: int) -> None:
        self.values[index] = self._at(index)
        self.finished[index] = True

    def _together(self, waiting: list[int]) -> None:
        """Rounds of some seconds: each process takes a part of a round, and one exchange gives it to all."""
        size = self._sharing.number
        while waiting:
            now, waiting = waiting[:size], waiting[size:]
            own = [now[i] for i in self._sharing.block(len(now))]
            started, failure = time.monotonic(), None
            try:
                for index in own:
                    self._evaluate(index)
            except Exception as error:
                failure = error
            mine = np.where(np.isin(now, own)[:, None], self.values[now], 0.0)
            rows, seconds = self._summed(mine, np.array([time.monotonic() - started]), failure=failure)
            self.values[now], self.finished[now] = rows, True
            if self._kept is not None:
                self._kept.write(self.values, self.finished, now=False)
            self._progress(int(self.finished.sum()), len(self.finished))
            each = float(seconds[0]) / len(now)  # seconds of one process for one point
            size = max(1, min(8 * size, int(self._sharing.number * ROUND / max(each, 1e-9))))

    def _begin(self, question: str) -> None:
        """What the file holds, for all processes, once these have found that they ask the same."""
        failure: Exception | None = None
        try:
            if self._kept is not None:
                self._kept.read(self.values, self.finished)
        except (OSError, ValueError) as error:
            failure = error
        if self._sharing.number > 1:
            asked = np.zeros(self._sharing.number)
            asked[self._sharing.rank] = int(question[:12], 16)
            held = np.where(self._sharing.is_first, self.finished.astype(np.float64), 0.0)
            values = np.where(self._sharing.is_first, self.values, 0.0)
            asked, held, self.values = self._summed(asked, held, values, failure=failure)
            self.finished = held > 0
            if len(set(asked.tolist())) > 1:
                raise ValueError(
                    "the processes ask different questions: objective, directions, coordinates and settings must be "
                    "the same on each of them. Look for seeds and data that depend on the process."
                )
        elif failure is not None:
            raise failure

    def _summed(self, *arrays: Array, failure: Exception | None = None) -> list[Array]:
        tensors = [torch.from_numpy(array).to(self._device, widest(self._device)) for array in arrays]
        return [tensor.cpu().numpy() for tensor in self._sharing.summed_unless_failed(tensors, failure)]
