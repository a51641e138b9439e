"""A linear map with weights of its own for every micro-batch: x (W + c_i G_i)', all of them in one call.

With inputs x_t and output gradients d_t in a micro-batch, G = Σ_t d_t x_t', so that ‖G‖² = Σ_{t,u} (x_t·x_u)(d_t·d_u)
and (W + c G) x = W x + c Σ_t (x_t·x) d_t: no copy of W is needed, and no gradient of W in the first pass. A bias is
one more input that is always one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from landscape.layers.sites import Site


class LinearSite(Site):
    """x W' + b, by the identity above or by copies of W, whichever costs less.

    Args:
        name: what the model calls it.
        weights: those of the map, "weight" and "bias"; a weight of more dimensions is flattened to two.
        perturbed: the names of those that are perturbed.
    """

    def __init__(self, name: str, weights: Mapping[str, Tensor | None], perturbed: frozenset[str]) -> None:
        super().__init__(name, weights, perturbed)
        weight = self.weights["weight"]
        assert weight is not None
        self.outputs, self.inputs = self.matrix(weight).shape
        self.one: Tensor | None = None  # what grams have more where there is a bias; made once

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as ``(outputs, inputs)``."""
        return weight if weight.ndim == 2 else weight.flatten(1)

    def matrices(self, copies: Tensor) -> Tensor:
        """Copies of the weight as ``(number, outputs, inputs)``."""
        return copies.flatten(2)

    def gradients(self, x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        """Σ_t d_t x_t' of each micro-batch, of the weight's shape."""
        return torch.bmm(d.mT, x).view(-1, *weight.shape)

    def clear(self) -> None:
        """See :class:`Site`."""
        self.factored: list[tuple[Tensor, Tensor]] | None = None
        self.grams: list[Tensor] = []  # x_t·x_u, or one more where there is a bias, for each run
        self.seen: tuple[int, int] | None = None  # which inputs these are of

    def is_cheap(self, inputs: Tensor) -> bool:
        """Whether the identity is, for what has one row per example."""
        return self.are_few(inputs.shape[:-1].numel() // self.passes.num_examples * self.passes.largest)

    def are_few(self, tokens: int) -> bool:
        """Whether the identity is cheap for micro-batches of so many tokens."""
        return tokens * (self.outputs + self.inputs) < self.outputs * self.inputs

    def keeps(self, inputs: Tensor) -> bool:
        """See :class:`Site`."""
        return "weight" in self.perturbed and not self.shared and self.is_cheap(inputs)

    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """See :class:`Site`."""
        shards = self.passes.shards
        pairs = list(zip(shards.rows(_as(inputs, slope.dtype)), shards.rows(slope), strict=True))
        if "weight" in self.perturbed and self.alone and self.is_cheap(inputs):
            self.factored, self.seen = pairs, (inputs.data_ptr(), inputs._version)
            return
        weight, bias = self.weights["weight"], self.weights["bias"]
        assert weight is not None
        for stacks, (x, d) in zip(self.passes.stacks, pairs, strict=True):
            if "weight" in self.perturbed:
                stacks.add(weight, self.gradients(x, d, weight))
            if "bias" in self.perturbed:
                assert bias is not None
                stacks.add(bias, d.sum(1))

    def squares(self, run: int) -> Tensor | None:
        """See :class:`Site`."""
        if self.factored is None:
            return None
        X, D = self.factored[run]
        x, d = wide(X), wide(D)
        gram = _gram(x, x, one=self._one(x))
        self.grams.append(gram)
        return _gram(d, d).mul_(gram).flatten(1)

    def bytes_of_squared(self, inputs: Tensor) -> int:
        """See :class:`Site`."""
        return super().bytes_of_squared(inputs) if inputs.shape[1:-1].numel() > 1 else 0

    def squared(self, inputs: Tensor, slope: Tensor, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Site`. With one token to an example (d x')² = d² (x²)', which is summed in one product."""
        x, d = (wide(part).reshape(len(part), -1, part.shape[-1]) for part in (_as(inputs, slope.dtype), slope))
        alone = x.shape[1] == 1
        if alone:
            x, d = x.square().transpose(0, 1), (d.square() * signs.to(d)[:, None, None]).transpose(0, 1)

        def summed(gradients: Tensor) -> Tensor:
            return gradients[0] if alone else torch.tensordot(signs.to(d), gradients.square(), dims=1)

        for key, weight in self.weights.items():
            if weight is not None and key in self.perturbed:
                yield weight, summed(self.gradients(x, d, weight) if key == "weight" else d.sum(1))

    def squares_of_rows(self) -> Tensor | int:
        """See :class:`Site`."""
        if self.factored is None or self.factored[0][0].shape[1] == 1:
            return 0
        x, d = (part.square().sum(2) for part in self.factored[0])
        return ((x + 1 if "bias" in self.perturbed else x) * d).sum(1)

    def second(self, inputs: Tensor) -> Tensor:
        """See :class:`Site`."""
        shards = self.passes.shards
        # The first layer sees the same data twice.
        known = self.seen == (inputs.data_ptr(), inputs._version) and not inputs.requires_grad
        inputs = _as(inputs, self.dtype)
        if shards.is_one_run:
            return self._moved(0, inputs, known=known)
        return shards.join([self._moved(run, x, known=known) for run, x in enumerate(shards.cut(inputs))])

    def _moved(self, run: int, x: Tensor, *, known: bool) -> Tensor:
        """The outputs of one run, ``(..., width)`` to ``(..., outputs)``, the first rows the first shard's."""
        weight, bias, dtype = self.weights["weight"], self.weights["bias"], self.dtype
        assert weight is not None
        W = _as(self.matrix(weight), dtype)
        b = None if bias is None else _as(bias, dtype)
        if self.factored is not None:
            X, D = self.factored[run]
            c = self.passes.factors[run]
            is_wide = wide(D) is D
            if not is_wide:  # the range of half precision is too small for c
                D = _as(wide(D) * c, dtype)
            gram = _as(self.grams[run], dtype) if known else None
            return _Factored.apply(x, W, b, X, D, c if is_wide else None, self._one(x), gram)  # type: ignore[no-untyped-call,no-any-return]
        stacks = self.passes.stacks[run]
        copies, shifts = stacks.copies(weight), None if bias is None else stacks.copies(bias)
        if copies is not None:
            shifts = b if shifts is None else _as(shifts, dtype)[:, None]
            return _Copies.apply(x, W, b, _as(self.matrices(copies), dtype), shifts)  # type: ignore[no-untyped-call,no-any-return]
        spread = None if bias is None else stacks.spread(bias)
        if spread is None:
            return functional.linear(x, W, b)
        y = functional.linear(x.reshape(len(spread), -1, x.shape[-1]), W) + _as(spread[:, None], dtype)
        return y.view(*x.shape[:-1], -1)

    def _one(self, like: Tensor) -> Tensor | None:
        if "bias" not in self.perturbed:
            return None
        if self.one is None or self.one.dtype != like.dtype or self.one.device != like.device:
            self.one = torch.ones(1, dtype=like.dtype, device=like.device)
        return self.one


class TurnedSite(LinearSite):
    """x W + b: a linear map whose weight is ``(inputs, outputs)``, as in the Conv1D of transformers."""

    def matrix(self, weight: Tensor) -> Tensor:
        """See :class:`LinearSite`."""
        return weight.T

    def matrices(self, copies: Tensor) -> Tensor:
        """See :class:`LinearSite`."""
        return copies.mT

    def gradients(self, x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        """See :class:`LinearSite`."""
        del weight
        return torch.bmm(x.mT, d)


def wide(tensor: Tensor) -> Tensor:
    """At least in single precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _gram(a: Tensor, b: Tensor, *, one: Tensor | None = None) -> Tensor:
    """a_t·b_u for the tokens of each micro-batch, ``(number, tokens, tokens)``, or one more."""
    if a.shape[1] == 1:
        products = (a * b).sum(2, keepdim=True)
        return products if one is None else products.add_(1)
    return torch.bmm(a, b.mT) if one is None else torch.baddbmm(one, a, b.mT)


def _add(y: Tensor, gram: Tensor, rows: Tensor) -> Tensor:
    """y_t + Σ_u gram_tu rows_u, in place."""
    return y.addcmul_(gram, rows) if y.shape[1] == 1 else y.baddbmm_(gram, rows)


def _flat(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def _outer(d: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """Σ_t d_t x_t', which lies in memory as ``like`` does."""
    return torch.mm(d.t(), x) if like.is_contiguous() else torch.mm(x.t(), d).t()


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
        rows = x.reshape(copies.shape[0], -1, x.shape[-1])
        y = x.new_empty(*x.shape[:-1], copies.shape[1])  # not a view, so that the next operation may write into it
        out = y.view(*rows.shape[:2], -1)
        if shifts is None:
            torch.bmm(rows, copies.mT, out=out)
        else:
            torch.baddbmm(shifts, rows, copies.mT, out=out)
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, copies = ctx.saved_tensors
        (d,) = slopes
        to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
        flat = _flat(d)
        return (
            torch.bmm(d.reshape(copies.shape[0], -1, d.shape[-1]), copies).view(x.shape) if to_x else None,
            _outer(flat, _flat(x), copies[0]) if to_weight else None,
            flat.sum(0) if to_bias else None,
            None,
            None,
        )


class _Factored(torch.autograd.Function):
    """x_i (W + c_i D_i' X_i)' + b, and + c_i Σ_t D_it where ``one`` is one; c_i is one where it is None.

    ``gram`` is x·X', or one more where ``one`` is, if it is known.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        X: Tensor,
        D: Tensor,
        c: Tensor | None,
        one: Tensor | None,
        gram: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kept = X, D, c
        if gram is None:
            gram = _gram(x.reshape(X.shape[0], -1, X.shape[2]), X, one=one)
        if x.ndim == 2:
            y = functional.linear(x, weight, bias)
        else:
            y = x.new_empty(*x.shape[:-1], weight.shape[0])  # not a view, so that the next operation may write into it
            if bias is None:
                torch.mm(_flat(x), weight.T, out=_flat(y))
            else:
                torch.addmm(bias, _flat(x), weight.T, out=_flat(y))
        _add(y.view(D.shape), gram if c is None else gram * c, D)
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        X, D, c = ctx.kept
        (d,) = slopes
        to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
        flat = _flat(d)
        back = None
        if to_x:
            back = (flat @ weight).view(x.shape)
            gram = _gram(d.reshape(D.shape), D)
            _add(back.view(X.shape), gram if c is None else gram.mul_(c), X)
        return (
            back,
            _outer(flat, _flat(x), weight) if to_weight else None,
            flat.sum(0) if to_bias else None,
            None,
            None,
            None,
            None,
            None,
        )
