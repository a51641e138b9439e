"""Who carries out the micro-batches of a step."""

from __future__ import annotations

from abc import abstractmethod

from landscape.batches import Batch
from landscape.processes import Alone, Sharing
from msam.execution import Execution
from msam.step import Outcome, Step


class Processes(Sharing):
    """The processes that share the micro-batches of every step, by their position in the batch."""

    def agree(self, step: Step) -> None:
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


class OneProcess(Alone, Processes):
    """This process alone."""

    def outcome(self, step: Step, execution: Execution) -> Outcome:
        """See :class:`Processes`."""
        return execution.outcome(step)
