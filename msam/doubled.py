"""A step in double precision and on a few examples: two executions differ by what is wrong there, not by rounding."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from torch import Tensor

from landscape.batches import map_tensors, take
from msam.step import Step

FEW = (4, 3)  # examples of the micro-batches of such a step, at the most


@contextlib.contextmanager
def doubled(step: Step) -> Iterator[Step]:
    """Let a model be in double precision for a while, and give a step on the first examples.

    Weights and buffers keep their identities, since closures may hold them, and get new contents: afterwards those that
    they had, not copies of them.

    Raises:
        TypeError: if the device has no double precision.
    """
    module = step.module
    held = [] if module is None else [*module.parameters(), *module.buffers()]
    every = {id(tensor): tensor for tensor in [*step.parameters, *held] if tensor.is_floating_point()}
    before: list[tuple[Tensor, Tensor]] = []
    sizes = [min(step.sizes[i], most) for i, most in zip(step.own, FEW, strict=False)]
    batch = map_tensors(_wide, take(step.own_batch, 0, sum(sizes)))
    try:
        for tensor in every.values():
            contents = tensor.data
            tensor.data = contents.double()
            before.append((tensor, contents))
        yield dataclasses.replace(step, batch=batch, sizes=sizes, own=range(len(sizes)), scale=None)
    finally:
        for tensor, contents in before:
            tensor.data = contents


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
