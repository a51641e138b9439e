"""An operation that has a first derivative and no second one."""

from __future__ import annotations

import torch


class Compiled(torch.autograd.Function):
    """v² with the backward pass of a compiled module."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return v.square()

    @staticmethod
    def backward(ctx, slope):
        return CompiledBackward.apply(ctx.saved_tensors[0], slope)


class CompiledBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, slope):
        return 2 * v * slope

    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("torch.compile with aot_autograd does not currently support double backward")
