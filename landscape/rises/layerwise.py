"""The rises of many shards at once, layer by layer: one pass up and down for all sizes, and one up for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.batches import Batch, map_tensors, num_examples, take
from landscape.layers import Passes, Plan, Site, UnsupportedError
from landscape.layers.linear import LinearSite
from landscape.layers.watched import Watched
from landscape.objective import Objective
from landscape.rises.losses import ShardLosses
from landscape.rises.rows import Run
from landscape.rises.ways import Pass, Rises, Way
from landscape.shards import Shards
from landscape.stacks import Ascent

Record = list[tuple[Site, Tensor, Tensor]]
# Examples to a shard up to which it pays, measured on small nets: with convolutions, and where layers have copies.
MOST_CONVOLVED, MOST_COPIED = 2, 8
OF_ROWS = 2  # products of rows, for the lengths and for the second pass, that spare one product of weights


class LayerByLayer(Way):
    """The inputs and output gradients of all layers, kept from one pass, are the gradients of all shards of any size.

    What they are of Σ d_i L_i they are of d_i L_i for the rows of shard i, whose ε_i they give; layers then take their
    inputs through w + ε_i for all shards in one call (:mod:`landscape.layers`).

    Args:
        objective: whose shards they are.
        ascents: that are measured; those after the first are the first at other radii.

    Raises:
        UnsupportedError: if a layer cannot be taken this way.
    """

    words = "layer by layer"

    def __init__(self, objective: Objective, ascents: Sequence[Ascent]) -> None:
        definition = objective.work.definition
        self.ascents = ascents
        self.model = Watched(objective)
        self.plan = self.model.plan
        self.losses = ShardLosses(definition)
        self.like = objective.weights
        first = take(objective.work.batches[0], 0, 1)
        self._seen = _Ascended(self, first, 0).record  # to know how many tokens an example has
        self._alone = {site for site, _, _ in self._seen if site.alone}

    def pays(self, size: int) -> bool:
        """See :class:`Way`."""
        if self.plan.wants_interleaved:
            return size <= MOST_CONVOLVED
        work = copied = 0
        for site, _, slope in self._seen:
            if isinstance(site, LinearSite):
                tokens = slope.numel() // site.outputs
                own = tokens * site.inputs * site.outputs
                work += own
                copied += 0 if site in self._alone and site.are_few(OF_ROWS * tokens * size) else own
        return size <= MOST_COPIED or 2 * copied < work

    def over(self, batch: Batch, start: int) -> Pass:
        """See :class:`Way`."""
        return _Ascended(self, batch, start)

    def __repr__(self) -> str:
        return "LayerByLayer()"


class _Ascended(Pass):
    """The first pass over the examples of a portion."""

    def __init__(self, way: LayerByLayer, batch: Batch, start: int) -> None:
        self.way, self.batch, self.start = way, batch, start
        number = num_examples(batch)
        self.record: Record = []
        passes = Passes(Shards(((1, number),)), way.ascents[0], way.plan.anchor, hooks=True, record=self.record)
        way.plan.begin(passes)
        with torch.enable_grad():
            self.outputs, self.targets = way.model.forward(batch, second=False)
            loss, count = way.losses.one((self.outputs, self.targets), way.like)
            self.is_empty = bool(count == 0)
            if not self.is_empty:
                way.plan.learnt(loss * count, passes)
        self.outputs = map_tensors(Tensor.detach, self.outputs)

    def rises(self, run: Run) -> Rises:
        plan, ascents, here = self.way.plan, self.way.ascents, slice(run.start - self.start, run.stop - self.start)
        losses, weights = self._losses(run, take_rows((self.outputs, self.targets), here, num_examples(self.batch)))
        if self.is_empty:
            return Rises(losses.new_zeros(run.number, len(ascents)), weights, losses)
        passes = Passes(Shards(((run.number, run.size),)), ascents[0], plan.anchor)
        plan.begin_again(passes)
        with torch.no_grad():
            for site, inputs, slope in self.record:
                site.learn(inputs[here], slope[here])
            self.num_bytes = passes.stacks[0].num_bytes
            squares = plan.squares(passes)
            doubtful = _cancelled(plan, squares[0], weights) | ~torch.isfinite(squares[0])
            shards = Shards(passes.shards.runs, interleaved=plan.wants_interleaved and run.size > 1)
            batch, gradients, risen = shards.arranged(take(self.batch, here.start, here.stop)), passes.stacks[0], []
            passes.shards = shards
            for ascent in ascents:
                passes.ascent, passes.stacks = ascent, [gradients if ascent is ascents[-1] else gradients.twin()]
                passes.stacks[0].ascent = ascent
                plan.move(passes, squares)
                pair = self.way.model.forward(batch, second=True)
                plan.require_repeats()
                for site in plan.sites:
                    site.repeats = 0
                risen.append(self._losses(run, _in_order(pair, shards))[0] - losses)
        return Rises(torch.stack(risen, 1), weights, losses, doubtful)

    def _losses(self, run: Run, pair: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        return self.way.losses.of(*pair, run.number, self.way.like)


def take_rows(pair: Any, rows: slice, number: int) -> Any:
    """Those of ``number`` examples, each of which may have several rows.

    Raises:
        UnsupportedError: if the rows are not those of examples.
    """

    def of(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0:
            return tensor
        if len(tensor) % number:
            raise UnsupportedError(f"outputs or targets have {len(tensor)} rows for {number} examples")
        each = len(tensor) // number
        return tensor[rows.start * each : rows.stop * each]

    return map_tensors(of, pair)


def _in_order(pair: Any, shards: Shards) -> Any:
    """Rows that were interleaved, shard by shard."""
    if not shards.interleaved:
        return pair
    ((number, size),) = shards.runs

    def of(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0:
            return tensor
        return tensor.reshape(size, number, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)

    return map_tensors(of, pair)


def _cancelled(plan: Plan, squares: Tensor, weights: Tensor) -> Tensor:
    """Which shards have gradients so much shorter than those of their rows that ‖Σ_t d_t x_t'‖² is lost in rounding."""
    rows = torch.zeros_like(squares)
    for site in plan.sites:
        rows = rows + site.squares_of_rows()
    few: Tensor = (squares < torch.finfo(squares.dtype).eps ** 0.25 * rows) & (weights != 0)
    return few
