"""Micro-batches shared by the processes of a torch.distributed group, with one all-reduce per step."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor

from msam.execution import Execution
from msam.processes import Processes
from msam.running import RunningBuffers
from msam.step import Gradient, Outcome, Step


class ProcessLostError(ConnectionError):
    """Another process of the group has died or failed."""


class Distributed(Processes):
    """The processes of a group, each with a block of consecutive micro-batches of the global batch.

    Which examples form a micro-batch depends on their position in the global batch alone, so that the number of
    micro-batches, and within rounding the weights, are the same for any number of processes; that need not divide the
    number of micro-batches. Every process is given the global batch, and only its own examples go through its model;
    do not wrap that in DistributedDataParallel. Running batch-norm statistics are put together as if one process had
    seen all micro-batches in order; of other buffers, the last process's are kept. Weights and buffers are those of
    the first process from the first step on.

    Args:
        group: of torch.distributed, whatever its backend; the default group when left out.

    Raises:
        ValueError: if torch.distributed is not initialised.
    """

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError("there is no process group; call torch.distributed.init_process_group(), under torchrun")
        self.group = group
        self.rank: int = torch.distributed.get_rank(group)
        self.number: int = torch.distributed.get_world_size(group)
        self._agreed = False

    def own(self, number: int) -> range:
        """A block of consecutive micro-batches; empty where there are more processes than micro-batches."""
        return self._block(self.rank, number)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes have come here.

        Raises:
            ProcessLostError: if one of them has died.
        """
        try:
            torch.distributed.barrier(group=self.group)
        except RuntimeError as error:
            raise _lost(error) from None

    def _block(self, rank: int, number: int) -> range:
        return range(rank * number // self.number, (rank + 1) * number // self.number)

    def outcome(self, step: Step, execution: Execution) -> Outcome:
        """See :class:`Processes`.

        Raises:
            ProcessLostError: if another process has died or failed.
            ValueError: if the processes were given batches of different sizes.
        """
        running = RunningBuffers(step.module)
        mine, failure = None, None
        try:
            mine = execution.outcome(step) if len(step.own) else None
        except Exception as error:
            failure = error  # the others wait for this process's part: they are told, and then it is raised
        parts = self._parts(step, mine, running, failed=failure is not None)
        try:
            numbers, used, rows, *tensors = self._summed(parts)
        except RuntimeError as error:
            raise failure or _lost(error) from None
        denominator, _, examples, failures, overflows, reported = numbers.tolist()
        if failure is not None:
            raise failure
        if failures:
            raise ProcessLostError("another process failed in this step; the reason is what that one says")
        if examples != self.number * sum(step.sizes):
            raise ValueError(
                f"the processes were given batches of different sizes, this one {sum(step.sizes)} examples and all "
                f"{self.number} together {examples:.0f}; give each the same global batch"
            )
        running.compose([rows[rank] for rank in range(self.number) if self._block(rank, len(step.sizes))])
        count = len(step.parameters)
        gradient: Gradient = [
            (slope / denominator).to(p) if is_used else None
            for slope, p, is_used in zip(tensors[:count], step.parameters, (used > 0).tolist(), strict=True)
        ]
        clean = [(s / denominator).to(p) for s, p in zip(tensors[count:], step.parameters, strict=step.learns)]
        mean = (numbers[1] / denominator).to(step.parameters[0])
        finite = torch.tensor(overflows == 0)
        per_shard = None if mine is None else mine.per_shard
        return Outcome(mean, gradient, denominator, reported > 0, finite, clean if step.learns else None, per_shard)

    def _parts(self, step: Step, mine: Outcome | None, running: RunningBuffers, *, failed: bool) -> list[Tensor]:
        """What this process adds to the sums: numbers, which parameters are used, its buffers, and gradients."""
        weights = step.parameters
        like = torch.zeros((), dtype=torch.promote_types(weights[0].dtype, torch.float32), device=weights[0].device)
        zeros = [like.expand(p.shape) for p in weights]
        row = running.row(like)
        rows = row.new_zeros(self.number, len(row))
        if mine is None:
            mine = Outcome(like, [None] * len(weights), 0.0, False, torch.tensor(True), list(zeros))
        else:
            rows[self.rank] = row
        share = mine.denominator
        loss = mine.loss.to(like) * share
        facts = [sum(step.sizes), failed, not bool(mine.finite), mine.reported]
        numbers = torch.stack([like + share, loss, *(like + float(fact) for fact in facts)])
        used = torch.stack([like + float(slope is not None) for slope in mine.gradient])
        pairs = zip(mine.gradient, zeros, strict=True)
        slopes = [zero if slope is None else slope.to(like) * share for slope, zero in pairs]
        clean = [slope.to(like) * share for slope in (mine.clean or [])] if step.learns else []
        return [numbers, used, rows, *slopes, *clean]

    def _summed(self, parts: list[Tensor]) -> list[Tensor]:
        """The sums over all processes, in one all-reduce."""
        flat = torch.cat([part.reshape(-1) for part in parts])
        torch.distributed.all_reduce(flat, group=self.group)
        pieces = torch.split(flat, [part.numel() for part in parts])
        return [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    def agree(self, step: Step) -> None:
        """See :class:`Processes`.

        Raises:
            ProcessLostError: if another process has died.
        """
        if self._agreed:
            return
        buffers = [] if step.module is None else list(step.module.buffers())
        first = 0 if self.group is None else torch.distributed.get_global_rank(self.group, 0)
        try:
            for tensor in [*step.parameters, *buffers]:
                torch.distributed.broadcast(tensor.detach(), src=first, group=self.group)
        except RuntimeError as error:
            raise _lost(error) from None
        self._agreed = True

    def __repr__(self) -> str:
        return f"Distributed(rank {self.rank} of {self.number})"


def _lost(error: RuntimeError) -> ProcessLostError:
    reason = str(error).splitlines()[0].rpartition("] ")[2] if "] " in str(error) else str(error).splitlines()[0]
    return ProcessLostError(
        f"another process is gone ({reason.split(' This is')[0].rstrip('. ')}); the last checkpoint is whole"
    )
