"""Who carries out the micro-batches of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from landscape.batches import Batch
from msam.execution import Execution
from msam.step import Outcome, Step


class Processes(ABC):
    """The processes that share the micro-batches of every step, by their position in the batch.

    Attributes:
        number: how many there are.
        rank: which of them this is, from 0 on.
    """

    number: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return True

    def wait(self) -> None:  # noqa: B027  one process has nobody to wait for
        """Go on when all processes have come here."""

    @abstractmethod
    def own(self, number: int) -> range:
        """Which of ``number`` micro-batches this process carries out."""

    def agree(self, step: Step) -> None:  # noqa: B027  one process agrees with itself
        """Take over the weights and buffers of the first process, before the first step."""

    def gathered(self, batch: Batch) -> Batch:
        """The global batch, of which each process has loaded a part, in the order of a DistributedSampler.

        That deals examples out like cards: the first one of each process, then the second of each. So the global
        batch is the one that a single process would have loaded, and parts may differ in length. Whatever is in the
        batch but is not per example stays this process's own.

        Args:
            batch: this process's part; a tensor, or tuples, lists and mappings of tensors that share their first
                dimension, on the device that the group communicates by.
        """
        return batch

    @abstractmethod
    def outcome(self, step: Step, execution: Execution) -> Outcome:
        """What the micro-batches of all processes come to; the same on each of them."""


class OneProcess(Processes):
    """This process alone."""

    def own(self, number: int) -> range:
        """All of them."""
        return range(number)

    def outcome(self, step: Step, execution: Execution) -> Outcome:
        """See :class:`Processes`."""
        return execution.outcome(step)
