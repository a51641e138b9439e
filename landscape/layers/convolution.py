"""A convolution with weights of its own for every micro-batch: one convolution with a group for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.layers.linear import LinearSite
from landscape.layers.sites import Site

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ConvolutionSite(Site):
    """A convolution without padding, or with zeros around its input.

    Args:
        name: what the model calls it.
        layer: for the geometry.
        perturbed: the names of the weights that are perturbed.
    """

    def __init__(self, name: str, layer: Convolution, perturbed: frozenset[str]) -> None:
        super().__init__(name, {"weight": layer.weight, "bias": layer.bias}, perturbed)
        padding = [0] * len(layer.kernel_size) if is_padded(layer) else [int(entry) for entry in layer.padding]
        self.geometry = (list(layer.stride), padding, list(layer.dilation))
        self.groups = layer.groups

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        weight, bias, shards = self.weights["weight"], self.weights["bias"], self.passes.shards
        assert weight is not None
        folded = zip(shards.fold(inputs.to(slope.dtype)), shards.fold(slope), strict=True)
        for stacks, (number, _), (x, d) in zip(self.passes.stacks, shards.runs, folded, strict=True):
            if "weight" in self.perturbed:
                like = slope.new_empty(1).expand(number * len(weight), *weight.shape[1:])
                gradients = _gradients(d, x, like, self.geometry, number * self.groups, of_weight=True)
                stacks.add(weight, gradients.view(number, *weight.shape))
            if "bias" in self.perturbed:
                assert bias is not None
                stacks.add(bias, d.sum([0, *range(2, d.ndim)]).view(number, -1))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        weight, bias = self.weights["weight"], self.weights["bias"]
        assert weight is not None
        dtype, shards = self.dtype, self.passes.shards
        W, b = weight.to(dtype), None if bias is None else bias.to(dtype)
        outputs = []
        for stacks, (number, _), x in zip(self.passes.stacks, shards.runs, shards.fold(inputs.to(dtype)), strict=True):
            copies = stacks.copies(weight)
            copies = (weight.detach().expand(number, *weight.shape) if copies is None else copies).to(dtype)
            shifts = None if bias is None else stacks.copies(bias)
            shifts = b if shifts is None else shifts.to(dtype)
            if b is not None:
                shifts = shifts.expand(number, -1)  # type: ignore[union-attr]
            outputs.append(_Grouped.apply(x, W, b, copies, shifts, self.geometry, self.groups))  # type: ignore[no-untyped-call]
        return shards.unfold(outputs)


class PatchSite(LinearSite):
    """A convolution whose windows do not overlap: a linear map of the patches.

    Args:
        name: what the model calls it.
        layer: for the geometry.
        perturbed: the names of the weights that are perturbed.
    """

    def __init__(self, name: str, layer: Convolution, perturbed: frozenset[str]) -> None:
        super().__init__(name, {"weight": layer.weight, "bias": layer.bias}, perturbed)
        self.kernel = tuple(layer.kernel_size)

    def keeps(self, inputs: Tensor) -> bool:
        """See :class:`Site`."""
        return super().keeps(patches(inputs, self.kernel))

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        super().learn(patches(inputs, self.kernel), slope.flatten(2).mT)

    def bytes_of_squared(self, inputs: Tensor) -> int:
        """See :class:`Site`."""
        return super().bytes_of_squared(patches(inputs[:1], self.kernel))

    def squared(self, inputs: Tensor, slope: Tensor, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Site`."""
        return super().squared(patches(inputs, self.kernel), slope.flatten(2).mT, signs)

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        tokens = super().second(patches(inputs, self.kernel))
        places = [extent // width for extent, width in zip(inputs.shape[2:], self.kernel, strict=True)]
        return tokens.mT.contiguous().view(len(inputs), -1, *places)


def site_of(name: str, layer: Convolution, perturbed: frozenset[str]) -> Site:
    """The cheaper of the two for a layer."""
    unit = all(entry == 1 for entry in layer.dilation) and layer.groups == 1
    apart = tuple(layer.stride) == tuple(layer.kernel_size)
    unpadded = isinstance(layer.padding, tuple) and not any(layer.padding)
    if unit and apart and unpadded:
        return PatchSite(name, layer, perturbed)
    return ConvolutionSite(name, layer, perturbed)


def is_padded(layer: Convolution) -> bool:
    """Whether the input is padded by an operation of its own."""
    return layer.padding_mode != "zeros" or isinstance(layer.padding, str)


def padded(layer: Convolution, inputs: Tensor) -> Tensor:
    """The input with what the layer puts around it."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)


def patches(images: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """``(examples, channels, ...)`` to ``(examples, patches, channels · pixels)``, without what no window sees."""
    for axis, width in enumerate(kernel, start=2):
        images = images.narrow(axis, 0, images.shape[axis] // width * width)
    shape = [size for extent, width in zip(images.shape[2:], kernel, strict=True) for size in (extent // width, width)]
    apart = images.reshape(*images.shape[:2], *shape)
    places, pixels = range(2, apart.ndim, 2), range(3, apart.ndim, 2)
    return apart.permute(0, *places, 1, *pixels).flatten(len(kernel) + 1).flatten(1, len(kernel))


Geometry = tuple[list[int], list[int], list[int]]


def _gradients(d: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, groups: int, *, of_weight: bool) -> Tensor:
    """The gradient of a convolution, of its weights or of its input."""
    found = torch.ops.aten.convolution_backward(
        d, x, weight, None, *geometry, False, [0] * len(geometry[0]), groups, [not of_weight, of_weight, False]
    )
    gradient: Tensor = found[1 if of_weight else 0]
    return gradient


class _Grouped(torch.autograd.Function):
    """A convolution with weights W_i for the channels of micro-batch i; the gradient of W is the sum of theirs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004
        copies: Tensor,
        shifts: Tensor | None,
        geometry: Geometry,
        groups: int,
    ) -> Tensor:
        ctx.geometry, ctx.groups, ctx.number = geometry, groups, len(copies)
        ctx.save_for_backward(x, weight, copies)
        flat = None if shifts is None else shifts.flatten()
        output: Tensor = torch.ops.aten.convolution(
            x, copies.flatten(0, 1), flat, *geometry, False, [0] * len(geometry[0]), len(copies) * groups
        )
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, copies = ctx.saved_tensors
        (d,) = slopes
        number, groups = ctx.number, ctx.groups
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _gradients(d, x, copies.flatten(0, 1), ctx.geometry, number * groups, of_weight=False)
        if ctx.needs_input_grad[1]:
            d_apart, x_apart = (part.reshape(len(part) * number, -1, *part.shape[2:]) for part in (d, x))
            to_weight = _gradients(d_apart, x_apart, weight, ctx.geometry, groups, of_weight=True)
        if ctx.needs_input_grad[2]:
            to_bias = d.sum([0, *range(2, d.ndim)]).view(number, -1).sum(0)
        return to_x, to_weight, to_bias, None, None, None, None
