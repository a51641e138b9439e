"""A normalisation with a scale and a shift of its own for every micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.layers.linear import wide
from landscape.layers.sites import Site


class TokenNormSite(Site):
    """Layer norm and RMS norm: scale and shift over the last axes, the same for all tokens.

    Args:
        name: what the model calls it.
        layer: the module.
        perturbed: the names of the weights that are perturbed.
    """

    def __init__(self, name: str, layer: nn.LayerNorm | nn.RMSNorm, perturbed: frozenset[str]) -> None:
        super().__init__(name, {"weight": layer.weight, "bias": getattr(layer, "bias", None)}, perturbed)
        shape, eps = list(layer.normalized_shape), layer.eps
        self.own = len(shape)
        self.normalised: Callable[[Tensor], Tensor] = (
            (lambda x: functional.rms_norm(x, shape, None, eps))
            if isinstance(layer, nn.RMSNorm)
            else (lambda x: functional.layer_norm(x, shape, None, None, eps))  # type: ignore[arg-type]
        )

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        shards, weight, bias = self.passes.shards, self.weights["weight"], self.weights["bias"]
        slope = wide(slope)
        hats = iter(shards.cut(self.normalised(inputs.to(slope.dtype)))) if "weight" in self.perturbed else None
        for stacks, d in zip(self.passes.stacks, shards.cut(slope), strict=True):
            others = list(range(1, d.ndim - self.own))
            if hats is not None:
                assert weight is not None
                stacks.add(weight, (d * next(hats)).sum(others))
            if "bias" in self.perturbed:
                assert bias is not None
                stacks.add(bias, d.sum(others))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        shards, weight, bias = self.passes.shards, self.weights["weight"], self.weights["bias"]
        assert weight is not None
        outputs = []
        for stacks, x in zip(self.passes.stacks, shards.cut(self.normalised(inputs)), strict=True):
            between = [1] * (x.ndim - self.own - 1)
            scale = _or(stacks.spread(weight), weight[None])
            scale = scale.reshape(len(scale), *between, *weight.shape)
            if bias is None:
                outputs.append(x * scale)
                continue
            shift = _or(stacks.spread(bias), bias[None])
            outputs.append(torch.addcmul(shift.reshape(len(shift), *between, *bias.shape), x, scale))
        return shards.join(outputs).to(self.dtype)


class ChannelNormSite(Site):
    """Group norm, and batch norm by its running statistics: a scale and a shift for each channel.

    Args:
        name: what the model calls it.
        layer: the module.
        perturbed: the names of the weights that are perturbed.
    """

    def __init__(self, name: str, layer: nn.GroupNorm | _BatchNorm, perturbed: frozenset[str]) -> None:
        super().__init__(name, {"weight": layer.weight, "bias": layer.bias}, perturbed)
        self.layer: Any = layer

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        shards, weight, bias = self.passes.shards, self.weights["weight"], self.weights["bias"]
        slope = wide(slope)
        folded = zip(shards.fold(inputs.to(slope.dtype)), shards.fold(slope), strict=True)
        for stacks, (number, _), (x, d) in zip(self.passes.stacks, shards.runs, folded, strict=True):
            ones = torch.ones(x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
            zeros = torch.zeros_like(ones, requires_grad=True)
            with torch.enable_grad():
                y = self._normalised(x, number, ones, zeros)
            gamma, beta = torch.autograd.grad(y, [ones, zeros], d)
            for name, entry, gradient in (("weight", weight, gamma), ("bias", bias, beta)):
                if name in self.perturbed:
                    assert entry is not None
                    stacks.add(entry, gradient.view(number, -1))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        shards, weight, bias = self.passes.shards, self.weights["weight"], self.weights["bias"]
        outputs = []
        for stacks, (number, _), x in zip(self.passes.stacks, shards.runs, shards.fold(inputs), strict=True):
            scale, shift = (
                None if entry is None else _or(stacks.spread(entry), entry.expand(number, -1)).flatten()
                for entry in (weight, bias)
            )
            outputs.append(self._normalised(x, number, scale, shift))
        return shards.unfold(outputs).to(self.dtype)

    def normalised(self, x: Tensor) -> Tensor:
        """The input before it is scaled and shifted."""
        return self._normalised(x, 1, None, None)

    def _normalised(self, x: Tensor, number: int, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.GroupNorm):
            return functional.group_norm(x, number * layer.num_groups, scale, shift, layer.eps)
        mean, variance = layer.running_mean.repeat(number), layer.running_var.repeat(number)
        return functional.batch_norm(x, mean, variance, scale, shift, eps=layer.eps)


def _or(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first
