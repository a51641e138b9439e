"""The quickest of several executions, found by measuring them on the first steps of training."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from landscape.arguments import integer
from msam.execution import Execution, OneByOne
from msam.guarded import Guarded, split_of
from msam.layerwise import Layerwise
from msam.step import Outcome, Step
from msam.vectorised import Vectorised


class Fastest(Execution):
    """Takes the first steps with each of several executions in turn, and all others with the quickest.

    Every step is a step of training, whoever carries it out. The first of each candidate does not count: it is the one
    in which executions are held against each other. A candidate that falls back drops out with its own warning, which
    says why. Steps whose batch is split in another way than that of the first, as the last of an epoch may be, and
    steps without a perturbation are not timed.

    Which one is chosen depends on the machine and its load, and results agree to rounding only. To repeat a run bit for
    bit, keep :attr:`chosen` and give it to :meth:`choose`.

    Args:
        candidates: the executions, ``OneByOne()``, ``Layerwise()`` and ``Vectorised()`` when left out. Their names are
            what they print as.
        steps: that are timed of each; the shortest counts.

    Attributes:
        chosen: the name of the execution that is used from now on; None as long as it is not known.

    Raises:
        ValueError: if there are no candidates, two have one name, or there are no steps.

    >>> fastest = Fastest()
    >>> fastest.choose("Layerwise()")
    >>> fastest
    Fastest(chosen='Layerwise()')
    """

    def __init__(self, candidates: Sequence[Execution] | None = None, *, steps: int = 3) -> None:
        given = (OneByOne(), Layerwise(), Vectorised()) if candidates is None else candidates
        self.candidates = {repr(candidate): candidate for candidate in given}
        if not given or len(self.candidates) < len(given):
            raise ValueError(f"candidates must be one execution or more, all of them different; got {list(given)}")
        if integer(steps, "steps") < 1:
            raise ValueError(f"steps must be at least 1; got {steps}")
        self.steps = steps
        self.chosen: str | None = None
        self.seconds: dict[str, list[float]] = {name: [] for name in self.candidates}  # of each step, the first too
        self._split: tuple[int, ...] | None = None  # of the batches that are timed

    def choose(self, name: str) -> None:
        """Use one of the candidates from now on.

        Raises:
            ValueError: if there is no candidate of this name.
        """
        if name not in self.candidates:
            raise ValueError(f"there is no execution {name!r}; there are: {', '.join(self.candidates)}")
        self.chosen = name

    def outcome(self, step: Step) -> Outcome:
        """See :class:`Execution`."""
        if self.chosen is not None:
            return self.candidates[self.chosen].outcome(step)
        name = min(self.seconds, key=lambda candidate: len(self.seconds[candidate]))  # the first of the least measured
        candidate = self.candidates[name]
        if not step.perturbs or step.observes:
            return candidate.outcome(step)
        if self._split is None:
            self._split = split_of(step)
        if split_of(step) != self._split:
            return candidate.outcome(step)
        device = step.parameters[0].device
        _wait_for(device)
        start = time.perf_counter()
        outcome = candidate.outcome(step)
        _wait_for(device)
        self._note(name, candidate, time.perf_counter() - start)
        return outcome

    def _note(self, name: str, candidate: Execution, seconds: float) -> None:
        """Take in one measurement, and choose where it was the last."""
        self.seconds[name].append(seconds)
        if isinstance(candidate, Guarded) and candidate.reason is not None and len(self.seconds) > 1:
            del self.seconds[name]
        if len(self.seconds) == 1 or all(len(taken) > self.steps for taken in self.seconds.values()):
            self.chosen = min(self.seconds, key=lambda left: min(self.seconds[left][1:], default=0.0))

    def __repr__(self) -> str:
        return f"Fastest({', '.join(self.candidates)})" if self.chosen is None else f"Fastest(chosen={self.chosen!r})"


def _wait_for(device: torch.device) -> None:
    """Let a device that works on its own finish what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
