"""The rises of many shards at once, with a copy of the weights for each of them, through ``torch.func``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.modules.conv import _ConvNd

from landscape.batches import Batch, map_tensors, take, tensors
from landscape.forward import Seam, call_with
from landscape.objective import Objective
from landscape.rises.losses import ShardLosses, stacked
from landscape.rises.rows import Run
from landscape.rises.ways import Pass, Rises, Way
from landscape.stacks import Ascent, Stacks

Weights = list[Tensor]
MOST, MOST_CONVOLVED = 4, 2  # examples to a shard; beyond, one after another is as quick


class WithCopies(Way):
    """Gradients of all shards of a run by ``vmap(grad)``, and their losses at w + ε_i by ``vmap`` over the copies.

    Nothing is known of the layers; all that ``torch.func`` can vectorise is served.

    Args:
        objective: whose shards they are.
        ascents: that are measured; those after the first are the first at other radii.
    """

    words = "with copies of the weights"

    def __init__(self, objective: Objective, ascents: Sequence[Ascent]) -> None:
        self.ascents = ascents
        self.definition = objective.work.definition
        self.losses = ShardLosses(self.definition)
        self.names = [f"model.{name}" for name in objective.space.names]
        self.weights = objective.space.split(objective.weights)
        self.like = objective.weights

    def pays(self, size: int) -> bool:
        """See :class:`Way`."""
        convolves = any(isinstance(layer, _ConvNd) for layer in self.definition.seam.modules())
        return size <= (MOST_CONVOLVED if convolves else MOST)

    def over(self, batch: Batch, start: int) -> Pass:
        """See :class:`Way`."""
        return _Copied(self, batch, start)

    def loss(self, weights: Weights, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and denominator of one shard at some weights."""
        seam: Seam = self.definition.seam
        buffers = {name: buffer.clone() for name, buffer in seam.named_buffers()}
        with self.definition.kernels():
            pair = call_with(seam, buffers | dict(zip(self.names, weights, strict=True)), batch)
        return self.losses.one(pair, self.like)

    def __repr__(self) -> str:
        return "WithCopies()"


class _Copied(Pass):
    def __init__(self, way: WithCopies, batch: Batch, start: int) -> None:
        self.way, self.batch, self.start = way, batch, start

    def rises(self, run: Run) -> Rises:
        way, batch = self.way, take(self.batch, run.start - self.start, run.stop - self.start)
        batch = map_tensors(partial(stacked, number=run.number), batch)
        rows = tensors(batch)

        def loss(weights: Weights, parts: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            rest = iter(parts)
            value, count = way.loss(weights, map_tensors(lambda _: next(rest), batch))
            return value, (value.detach(), count)

        slopes, (_, (losses, counts)) = _over(grad_and_value(loss, has_aux=True), rows, None)(way.weights, rows)
        with torch.no_grad():
            gradients = Stacks(way.ascents[0])
            for weight, slope in zip(way.weights, slopes, strict=True):
                gradients.add(weight, slope.clone())  # may be one tensor for several shards, or that of another weight
            self.num_bytes = gradients.num_bytes
            squares, risen = gradients.squares(run.number), []
            assert squares is not None
            for ascent in way.ascents:
                moved = gradients if ascent is way.ascents[-1] else gradients.twin()
                moved.ascent = ascent
                moved.perturb(ascent.factors(squares))
                copies = [moved.copies(weight) for weight in way.weights]
                risen.append(_over(loss, rows, 0)(copies, rows)[0] - losses)
        return Rises(torch.stack(risen, 1), counts, losses, ~torch.isfinite(squares))


def _over(function: Callable[..., Any], rows: Sequence[Tensor], of_weights: int | None) -> Callable[..., Any]:
    axes = [0 if tensor.ndim else None for tensor in rows]
    vectorised = vmap(function, in_dims=(of_weights, axes))

    def quietly(weights: Any, parts: Any) -> Any:
        with warnings.catch_warnings():  # operations that are looped over
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            return vectorised(weights, parts)

    return quietly
