"""Gradients that are left in ``.grad``, where a loop may change or drop them before the next batch comes."""

from __future__ import annotations

import torch
from torch import Tensor


class Left:
    """The gradients of some weights, as they are when this is made.

    Args:
        weights: whose they are; none where nothing has been left yet.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights = weights
        self._marks = self._now

    @property
    def _now(self) -> list[tuple[int, int] | None]:
        return [None if p.grad is None else (id(p.grad), p.grad._version) for p in self.weights]

    @property
    def is_dropped(self) -> bool:
        """Whether all of them are None by now, or have been set to zero, as ``zero_grad`` does one or the other."""
        now = self._now
        if all(mark is None for mark in now):
            return True
        return now != self._marks and not any(bool(p.grad.any()) for p in self.weights if p.grad is not None)

    def is_of(self, weights: list[Tensor]) -> bool:
        """Whether they are the gradients of these weights."""
        return [*map(id, weights)] == [*map(id, self.weights)]


def clear(optimizer: torch.optim.Optimizer) -> None:
    """Let go of all gradients; ``zero_grad`` takes ten times as long, for records that torch's profiler reads."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
