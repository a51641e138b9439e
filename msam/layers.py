"""One layer with weights of its own for every micro-batch: w + c_i g_i, all micro-batches in one call.

A rule knows two things of its layer: the norm of each micro-batch's gradient, from the layer's inputs and the gradients
of its outputs, and the outputs at the perturbed weights. For a linear layer with inputs x_t and output gradients d_t
in a micro-batch, g = Σ_t d_t x_t', so that ‖g‖² = Σ_{t,u} (x_t·x_u)(d_t·d_u) and
(W + c g) x = W x + c Σ_t (x_t·x) d_t: no copy of W is needed, and no gradient of W in the first pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msam.shards import Shards


class UnsupportedError(Exception):
    """A model that cannot be taken layer by layer; the sentence says why."""


class Rule(ABC):
    """A layer in the two passes of a step: :meth:`first`, :meth:`learn`, :meth:`second`.

    Args:
        name: what the model calls the layer.
        layer: the module.
        perturbed: which of its parameters are perturbed, by name.
    """

    def __init__(self, name: str, layer: nn.Module, perturbed: frozenset[str]) -> None:
        self.name = name
        self.layer = layer
        self.perturbed = perturbed
        self.inputs: Tensor | None = None
        self.output: Tensor | None = None
        self.factors: Tensor | None = None  # (shards,), c_i
        self.shards: Shards | None = None

    def first(self, inputs: Tensor) -> Tensor:
        """The layer as it is; what goes in and what comes out is kept."""
        if self.output is not None:
            raise UnsupportedError(f"{self.name} is called more than once in a pass")
        if self.shards is not None and (inputs.ndim < 1 or len(inputs) != self.shards.num_examples):
            shape = tuple(inputs.shape)
            raise UnsupportedError(f"the input of {self.name}, {shape}, has no row for each example")
        output = type(self.layer).forward(self.layer, inputs)
        self.inputs, self.output = inputs.detach(), output
        written: Tensor = output.clone()  # the next operation may write into it
        return written

    @abstractmethod
    def learn(self, slope: Tensor) -> Tensor:
        """Take in the gradient of the batch's mean loss at the output; returns ‖g_i‖² of this layer, ``(shards,)``."""

    @abstractmethod
    def second(self, inputs: Tensor) -> Tensor:
        """The layer at w + c_i g_i for micro-batch i, differentiable in w."""


class LinearRule(Rule):
    """A linear layer, by the identity above or by copies of W, whichever costs less."""

    def learn(self, slope: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.inputs is not None
        self.blocks = []
        squares = []
        scales = self.shards.split(self.shards.scales(slope))
        for x, d, scale in zip(self.shards.cut(self.inputs), self.shards.cut(slope), scales, strict=True):
            X = x.flatten(1, -2)  # (number, tokens, inputs)
            D = d.flatten(1, -2) * scale[:, None, None]  # (number, tokens, outputs)
            tokens, cheap = X.shape[1], X.shape[1] * (X.shape[2] + D.shape[2]) < X.shape[2] * D.shape[2]
            square = torch.zeros_like(scale)
            G = None
            if "weight" in self.perturbed:
                if cheap:
                    if tokens == 1:
                        square = square + X.square().sum((1, 2)) * D.square().sum((1, 2))
                    else:
                        square = square + (torch.bmm(X, X.mT) * torch.bmm(D, D.mT)).sum((1, 2))
                else:
                    G = torch.bmm(D.mT, X)
                    square = square + G.square().sum((1, 2))
            B = D.sum(1) if "bias" in self.perturbed else None
            if B is not None:
                square = square + B.square().sum(1)
            self.blocks.append((X, D, G, B))
            squares.append(square)
        return torch.cat(squares)

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.factors is not None
        layer: Any = self.layer
        outputs = []
        for x, c, (X, D, G, B) in zip(
            self.shards.cut(inputs), self.shards.split(self.factors), self.blocks, strict=True
        ):
            x2 = x.flatten(1, -2)
            shift = None if B is None else (B * c[:, None])[:, None]
            if G is not None:
                copies = torch.addcmul(layer.weight.detach(), G, c[:, None, None])
                y = _Copies.apply(x2, layer.weight, copies)  # type: ignore[no-untyped-call]
                if layer.bias is not None:
                    y = y + (layer.bias if shift is None else layer.bias + shift)
            else:
                y = functional.linear(x2, layer.weight, layer.bias)
                if "weight" in self.perturbed:
                    y = torch.baddbmm(y, torch.bmm(x2, X.mT), D * c[:, None, None])
                if shift is not None:
                    y = y + shift
            outputs.append(y.reshape(*x.shape[:-1], y.shape[-1]))
        return self.shards.join(outputs)


class _Copies(torch.autograd.Function):
    """x_i W_i' for each micro-batch i; the gradient of W is that of all W_i, in one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, copies: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(x, copies)
        return torch.bmm(x, copies.mT)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, copies = ctx.saved_tensors
        (d,) = slopes
        to_x = torch.bmm(d, copies) if ctx.needs_input_grad[0] else None
        to_weight = d.flatten(0, 1).T @ x.flatten(0, 1) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, None


class NormRule(Rule):
    """Normalisation with a scale and a shift: y = x̂ γ + β.

    Args:
        name: what the model calls the layer.
        layer: the module.
        perturbed: which of its parameters are perturbed, by name.
        normalised: x ↦ x̂.
        axis: the first axis of the inputs that γ runs over; negative ones count from the end.
    """

    def __init__(
        self, name: str, layer: nn.Module, perturbed: frozenset[str], normalised: Callable[[Tensor], Tensor], axis: int
    ) -> None:
        super().__init__(name, layer, perturbed)
        self.normalised = normalised
        self.axis = axis

    def _axes(self, block: Tensor, count: int) -> tuple[list[int], list[int]]:
        start = 1 + self.axis if self.axis > 0 else block.ndim + self.axis
        own = list(range(start, start + count))
        return own, [axis for axis in range(1, block.ndim) if axis not in own]

    def learn(self, slope: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.inputs is not None
        self.blocks = []
        squares = []
        scales = self.shards.split(self.shards.scales(slope))
        hats = self.shards.cut(self.normalised(self.inputs))
        layer: Any = self.layer
        for x, d, scale in zip(hats, self.shards.cut(slope), scales, strict=True):
            _, others = self._axes(d, layer.weight.ndim)
            factor = scale.reshape(-1, *[1] * (d.ndim - 1))
            gamma = ((d * x).sum(others, keepdim=True) * factor) if "weight" in self.perturbed else None
            beta = (d.sum(others, keepdim=True) * factor) if "bias" in self.perturbed else None
            parts = [part.flatten(1).square().sum(1) for part in (gamma, beta) if part is not None]
            squares.append(torch.stack(parts).sum(0) if parts else torch.zeros_like(scale))
            self.blocks.append((gamma, beta))
        return torch.cat(squares)

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.factors is not None
        layer: Any = self.layer
        outputs = []
        hats = self.shards.cut(self.normalised(inputs))
        for x, c, (gamma, beta) in zip(hats, self.shards.split(self.factors), self.blocks, strict=True):
            own, _ = self._axes(x, layer.weight.ndim)
            shape = [x.shape[axis] if axis in own else 1 for axis in range(2, x.ndim)]
            factor = c.reshape(-1, *[1] * (x.ndim - 1))
            scale, shift = layer.weight.reshape(shape), 0.0 if layer.bias is None else layer.bias.reshape(shape)
            scale = scale if gamma is None else scale + gamma * factor
            shift = shift if beta is None else shift + beta * factor
            outputs.append(x * scale + shift)
        return self.shards.join(outputs)


class EmbeddingRule(Rule):
    """A table of vectors: two positions share a gradient where they look up the same row."""

    def first(self, inputs: Tensor) -> Tensor:
        """See :class:`Rule`."""
        layer: Any = self.layer
        if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
            raise UnsupportedError(f"max_norm, scale_grad_by_freq or sparse of {self.name} is set")
        return super().first(inputs)

    def learn(self, slope: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.inputs is not None
        self.blocks = []
        squares = []
        layer: Any = self.layer
        scales = self.shards.split(self.shards.scales(slope))
        for index, d, scale in zip(self.shards.cut(self.inputs), self.shards.cut(slope), scales, strict=True):
            rows = index.flatten(1)  # (number, tokens)
            D = d.flatten(1, -2) * scale[:, None, None]
            same = (rows[:, :, None] == rows[:, None, :]).to(D)
            if layer.padding_idx is not None:
                same = same * (rows != layer.padding_idx).to(D)[:, :, None]
            self.blocks.append((same, D))
            squares.append((same * torch.bmm(D, D.mT)).sum((1, 2)))
        return torch.cat(squares)

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Rule`."""
        assert self.shards is not None
        assert self.factors is not None
        plain = type(self.layer).forward(self.layer, inputs)
        outputs = []
        for y, c, (same, D) in zip(self.shards.cut(plain), self.shards.split(self.factors), self.blocks, strict=True):
            shift = torch.bmm(same, D * c[:, None, None])
            outputs.append(y + shift.reshape(y.shape))
        return self.shards.join(outputs)


def rule_for(name: str, layer: nn.Module, perturbed: frozenset[str]) -> Rule:
    """The rule of a layer.

    Raises:
        UnsupportedError: if there is none for its type.
    """
    if "forward" in layer.__dict__:
        raise UnsupportedError(f"{name} has been given a forward of its own")
    if type(layer) is nn.Linear:
        return LinearRule(name, layer, perturbed)
    if type(layer) is nn.Embedding:
        return EmbeddingRule(name, layer, perturbed)
    if type(layer) is nn.LayerNorm:
        shape, eps = layer.normalized_shape, layer.eps
        return NormRule(name, layer, perturbed, lambda x: functional.layer_norm(x, shape, None, None, eps), -len(shape))
    if type(layer) is nn.GroupNorm:
        groups, eps = layer.num_groups, layer.eps
        return NormRule(name, layer, perturbed, lambda x: functional.group_norm(x, groups, None, None, eps), 1)
    raise UnsupportedError(f"{name} is a {type(layer).__name__}, for which there is no rule")
