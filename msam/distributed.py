"""Micro-batches shared by the processes of a torch.distributed group, with one all-reduce per step."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from landscape.batches import Batch
from landscape.processes import ProcessLostError, Together
from msam.averages import MIXED
from msam.diagnostics import Observer
from msam.execution import Execution
from msam.parts import checksum, gathered
from msam.processes import Processes
from msam.running import RunningBuffers
from msam.step import Gradient, Outcome, Step

FACTS = 4  # of the batch: examples, micro-batches, whether they are reported on, checksum


class Distributed(Together, Processes):
    """The processes of a group, each with a block of consecutive micro-batches of the global batch.

    Which examples form a micro-batch depends on their position in the global batch alone, so that the number of
    micro-batches, and within rounding the weights, are the same for any number of processes; that need not divide the
    number of micro-batches. Every process is given the global batch, and only its own examples go through its model;
    do not wrap that in DistributedDataParallel. Where each process loads a part of its own, as with a
    DistributedSampler, :meth:`gathered` makes the global batch of them. Running batch-norm statistics are put together
    as if one process had seen all micro-batches in order; of other buffers, the last process's are kept. Weights,
    frozen ones too, and buffers are those of the first process from the first step on.

    Args:
        group: of torch.distributed, whatever its backend; the default group when left out.

    Raises:
        ValueError: if torch.distributed is not initialised.
    """

    consequence = "; the last checkpoint is whole"

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        super().__init__(group)
        self._agreed: dict[int, Callable[[], Tensor | None]] = {}  # the weights that have been handed out, by identity

    def outcome(self, step: Step, execution: Execution) -> Outcome:
        """See :class:`Processes`.

        Raises:
            ProcessLostError: if another process has died or failed.
            ValueError: if the processes were given different batches, or different numbers of micro-batches, or only
                some of them are to report on these, or they have other settings or states.
        """
        running = RunningBuffers(step.module)
        mine, failure = None, None
        try:
            mine = execution.outcome(step) if len(step.own) else None
        except Exception as error:
            failure = error  # the others wait for this process's part: they are told, and then it is raised
        parts = self._parts(step, mine, running, failed=failure is not None)
        try:
            sums = self._summed(parts)
        except ProcessLostError as error:
            raise failure or error from None
        if failure is not None:
            raise failure
        (numbers, facts), (used,), (rows,) = sums["numbers"], sums["used"], sums["rows"]
        denominator, _, failures, overflows, with_report, without_report = numbers.tolist()
        if failures:
            raise ProcessLostError("another process failed in this step; the reason is what that one says")
        _require_one_batch([row[:FACTS] for row in facts.tolist()])
        _require_alike(step.alike, [row[FACTS:] for row in facts.tolist()])
        if with_report and without_report:
            raise ValueError(MIXED)
        running.compose([*rows])
        gradient: Gradient = [
            (slope / denominator).to(p) if is_used else None
            for slope, p, is_used in zip(sums["slopes"], step.parameters, (used > 0).tolist(), strict=True)
        ]
        clean = [(s / denominator).to(p) for s, p in zip(sums["clean"], step.parameters, strict=step.learns)]
        mean = (numbers[1] / denominator).to(step.parameters[0])
        finite = torch.tensor(overflows == 0, device="cpu")
        observer = self._observer(step, mine) if step.observes else None
        return Outcome(mean, gradient, denominator, with_report > 0, finite, clean if step.learns else None, observer)

    def _parts(
        self, step: Step, mine: Outcome | None, running: RunningBuffers, *, failed: bool
    ) -> dict[str, list[Tensor]]:
        """What this process adds to the sums: numbers, which parameters are used, its buffers, gradients."""
        weights = step.parameters
        like = torch.zeros((), dtype=torch.promote_types(weights[0].dtype, torch.float32), device=weights[0].device)
        zeros = [like.expand(p.shape) for p in weights]
        row = running.row(like)
        rows = row.new_zeros(self.number, len(row))
        if mine is None:
            mine = Outcome(like, [None] * len(weights), 0.0, False, torch.tensor(True, device="cpu"), list(zeros))
        else:
            rows[self.rank] = row
        share = mine.denominator
        loss = mine.loss.to(like) * share
        counts = [failed, not bool(mine.finite), mine.reported, share > 0 and not mine.reported]
        numbers = torch.stack([like + share, loss, *(like + float(count) for count in counts)])
        facts = row.new_zeros(self.number, FACTS + len(step.alike))
        given = [like + sum(step.sizes), like + len(step.sizes), like + float(step.observes)]
        settings = [like + value for value in step.alike.values()]
        facts[self.rank] = torch.stack([*given, checksum(step.batch).to(like), *settings])
        used = torch.stack([like + float(slope is not None) for slope in mine.gradient])
        pairs = zip(mine.gradient, zeros, strict=True)
        slopes = [zero if slope is None else slope.to(like) * share for slope, zero in pairs]
        clean = [slope.to(like) * share for slope in (mine.clean or [])] if step.learns else []
        return {
            "numbers": [numbers, facts],
            "used": [used],
            "rows": [rows],
            "slopes": slopes,
            "clean": clean,
        }

    def _observer(self, step: Step, mine: Outcome | None) -> Observer:
        """What the processes have seen together, in another all-reduce, once it is known that all of them look."""
        weights = step.parameters
        like = torch.zeros((), dtype=torch.promote_types(weights[0].dtype, torch.float32), device=weights[0].device)
        shapes = [p.shape for p in compress(weights, step.perturbed)]
        seen = None if mine is None else mine.observer
        return Observer.of_sums(step.sizes, self.summed(Observer.addends(seen, shapes, len(step.sizes), like)))

    def _summed(self, parts: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """The sums over all processes, in one all-reduce."""
        sums = iter(self.summed([part for group in parts.values() for part in group]))
        return {name: [next(sums) for _ in group] for name, group in parts.items()}

    def gathered(self, batch: Batch) -> Batch:
        """See :class:`Processes`.

        Raises:
            ProcessLostError: if another process has died.
            ValueError: if the parts differ in more than their numbers of examples.
        """
        return gathered(batch, self.from_all)

    def agree(self, step: Step) -> None:
        """See :class:`Processes`.

        Raises:
            ProcessLostError: if another process has died.
            ValueError: if the model has layers that talk to other processes in their passes, or it is not the
                model that the first process trains.
        """
        if all(self._agreed.get(id(p), _nothing)() is p for p in step.parameters):
            return
        model = [] if step.module is None else [*step.module.parameters(), *step.module.buffers()]
        if step.module is not None and any(isinstance(part, nn.SyncBatchNorm) for part in step.module.modules()):
            raise ValueError(
                "SyncBatchNorm would normalise each micro-batch together with another process's; use BatchNorm layers, "
                "with batch_norm=BatchStatistics() for the statistics of the whole batch"
            )
        every = {id(tensor): tensor for tensor in [*step.parameters, *model]}
        layout = repr([step.learns, *([t.shape for t in some] for some in (step.parameters, every.values()))])
        own = torch.tensor(zlib.crc32(layout.encode()), device=step.parameters[0].device)
        firsts = own.clone()
        self.take_from_first([firsts])
        if not torch.equal(own, firsts):
            raise ValueError(
                "this process trains weights of other numbers or shapes than the first; build the same model and "
                "perturbation on each of them, and freeze the same weights"
            )
        self.take_from_first(every.values())
        self._agreed |= {id(p): weakref.ref(p) for p in step.parameters}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_agreed": {}}


def _nothing() -> None:
    """What a weak reference gives when its tensor is gone."""


def _require_one_batch(facts: list[list[float]]) -> None:
    """Every process must have split the same batch in the same way; one row of facts for each.

    Raises:
        ValueError: if they have not.
    """
    sizes, numbers, observing, _ = ([int(value) for value in column] for column in zip(*facts, strict=True))
    if len(set(numbers)) > 1:
        raise ValueError(f"the processes split their batches into {numbers} micro-batches; give all the same number")
    if len(set(observing)) > 1:
        some = [rank for rank, observes in enumerate(observing) if observes]
        raise ValueError(f"processes {some} of {len(facts)} report on micro-batches; give all the same observes")
    if len({tuple(row) for row in facts}) > 1:
        found = f"different batches of {sizes[0]}" if len(set(sizes)) == 1 else f"batches of {sizes}"
        raise ValueError(
            f"the processes were given {found} examples; give each the same global batch, as from loaders of the same "
            "seed, or put together what each has loaded: step(closure, processes.gathered(batch))"
        )


def _require_alike(settings: Mapping[str, float], facts: list[list[float]]) -> None:
    """Every process must take the same step; one row of settings for each.

    Raises:
        ValueError: if they will not.
    """
    for name, values in zip(settings, zip(*facts, strict=True), strict=True):
        if len(set(values)) > 1:
            raise ValueError(
                f"the processes have different {name}: {list(values)}; give all the same settings, and let each of "
                "them load the same states of optimizer and scaler"
            )
