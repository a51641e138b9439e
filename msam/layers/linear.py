"""A linear map with weights of its own for every micro-batch: x (W + c_i G_i)', all of them in one call.

With inputs x_t and output gradients d_t in a micro-batch, G = Σ_t d_t x_t', so that ‖G‖² = Σ_{t,u} (x_t·x_u)(d_t·d_u)
and (W + c G) x = W x + c Σ_t (x_t·x) d_t: no copy of W is needed, and no gradient of W in the first pass. A bias is
one more input that is always one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from msam.layers.sites import Site


class LinearSite(Site):
    """x W' + b, by the identity above or by copies of W, whichever costs less."""

    def clear(self) -> None:
        """See :class:`Site`."""
        self.factored: list[tuple[Tensor, Tensor]] | None = None
        self.grams: list[Tensor] = []  # x_t·x_u, or one more where there is a bias, for each run
        self.seen: tuple[int, int] | None = None  # which inputs these are of

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        weight, bias = self.weights["weight"], self.weights["bias"]
        assert weight is not None
        shards = self.passes.shards
        dtype = slope.dtype
        pairs = [(_rows(x), _rows(d)) for x, d in zip(shards.cut(inputs), shards.cut(slope), strict=True)]
        if inputs.dtype != dtype:
            pairs = [(x.to(dtype), d) for x, d in pairs]
        outputs, tokens = weight.shape[0], max([x.shape[1] for x, _ in pairs])
        cheap = tokens * (outputs + weight.numel() // outputs) < weight.numel()
        if cheap and "weight" in self.perturbed and self.alone:
            self.factored, self.seen = pairs, (inputs.data_ptr(), inputs._version)
            return
        for stacks, (x, d) in zip(self.passes.stacks, pairs, strict=True):
            if "weight" in self.perturbed:
                stacks.add(weight, torch.bmm(d.mT, x).view(-1, *weight.shape))
            if "bias" in self.perturbed:
                assert bias is not None
                stacks.add(bias, d.sum(1))

    def squares(self, run: int) -> Tensor | None:
        """See :class:`Site`."""
        if self.factored is None:
            return None
        x, d = (wide(part) for part in self.factored[run])
        gram = _gram(x, x)
        if "bias" in self.perturbed:
            gram = gram.add_(1)
        self.grams.append(gram)
        return (gram * _gram(d, d)).sum((1, 2))

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        dtype, shards = self.dtype, self.passes.shards
        # The first layer sees the same data twice.
        known = self.seen == (inputs.data_ptr(), inputs._version) and not inputs.requires_grad
        outputs = []
        for run, block in enumerate(shards.cut(_as(inputs, dtype))):
            y = self._moved(run, _rows(block), known=known)
            outputs.append(y if block.ndim == 3 else y.reshape(*block.shape[:-1], y.shape[2]))
        return shards.join(outputs)

    def _moved(self, run: int, x: Tensor, *, known: bool) -> Tensor:
        """The outputs of one run, ``(number, tokens, outputs)``."""
        weight, bias, dtype = self.weights["weight"], self.weights["bias"], self.dtype
        assert weight is not None
        W = _as(weight if weight.ndim == 2 else weight.flatten(1), dtype)
        b = None if bias is None else _as(bias, dtype)
        if self.factored is not None:
            X, D = self.factored[run]
            moved = D * _as(self.passes.factors[run], dtype)
            gram = _as(self.grams[run], dtype) if known else None
            return _Factored.apply(x, W, b, X, moved, "bias" in self.perturbed, gram)  # type: ignore[no-untyped-call,no-any-return]
        stacks = self.passes.stacks[run]
        copies, shifts = stacks.copies(weight), None if bias is None else stacks.copies(bias)
        if copies is not None:
            shifts = b if shifts is None else _as(shifts, dtype)[:, None]
            return _Copies.apply(x, W, b, _as(copies.flatten(2), dtype), shifts)  # type: ignore[no-untyped-call,no-any-return]
        spread = None if bias is None else stacks.spread(bias)
        return functional.linear(x, W, b) if spread is None else functional.linear(x, W) + _as(spread[:, None], dtype)


def wide(tensor: Tensor) -> Tensor:
    """At least in single precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _rows(block: Tensor) -> Tensor:
    """``(number, size, ..., width)`` to ``(number, tokens, width)``."""
    return block if block.ndim == 3 else block.flatten(1, -2)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """a_t·b_u for the tokens of each micro-batch, ``(number, tokens, tokens)``."""
    return (a * b).sum(2, keepdim=True) if a.shape[1] == 1 else torch.bmm(a, b.mT)


def _add(y: Tensor, gram: Tensor, rows: Tensor) -> Tensor:
    """y_t + Σ_u gram_tu rows_u, in place."""
    return y.addcmul_(gram, rows) if y.shape[1] == 1 else y.baddbmm_(gram, rows)


def _summed(d: Tensor, x: Tensor) -> Tensor:
    """The gradient of a weight that all micro-batches share, in one product."""
    return d.flatten(0, 1).T @ x.flatten(0, 1)


class _Copies(torch.autograd.Function):
    """x_i W_i' + b_i for each micro-batch i; the gradient of W is that of all W_i, in one product."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,  # noqa: ARG004
        bias: Tensor | None,  # noqa: ARG004
        copies: Tensor,
        shifts: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, copies)
        return torch.bmm(x, copies.mT) if shifts is None else torch.baddbmm(shifts, x, copies.mT)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, copies = ctx.saved_tensors
        (d,) = slopes
        to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
        return (
            torch.bmm(d, copies) if to_x else None,
            _summed(d, x) if to_weight else None,
            d.sum((0, 1)) if to_bias else None,
            None,
            None,
        )


class _Factored(torch.autograd.Function):
    """x_i (W + M_i' X_i)' + b, and + Σ_t M_it where ``one``, with M_i = c_i D_i.

    ``gram`` is x·X', or one more where ``one``, if it is known.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, X: Tensor, M: Tensor, one: bool, gram: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, X, M)
        if gram is None:
            gram = _gram(x, X).add_(1) if one else _gram(x, X)
        y = x.new_empty(*x.shape[:2], weight.shape[0])  # not a view, so that the next operation may write into it
        if bias is None:
            torch.mm(x.flatten(0, 1), weight.T, out=y.view(-1, y.shape[2]))
        else:
            torch.addmm(bias, x.flatten(0, 1), weight.T, out=y.view(-1, y.shape[2]))
        return _add(y, gram, M)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, X, M = ctx.saved_tensors
        (d,) = slopes
        to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
        return (
            _add((d.flatten(0, 1) @ weight).view_as(x), _gram(d, M), X) if to_x else None,
            _summed(d, x) if to_weight else None,
            d.sum((0, 1)) if to_bias else None,
            None,
            None,
            None,
            None,
        )
