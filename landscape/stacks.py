"""A gradient, and then a perturbed copy, of every weight for every micro-batch of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from landscape.balls import L2, Ball, Linf, over
from landscape.perturbations import AdaptiveAscent, GradientAscent

SMALL = 4096  # entries per micro-batch below which an operation costs more than its arithmetic


class Ascent:
    """ε_i = c_i T² g_i with c_i = ρ / ‖T g_i‖: gradient ascent, where T = 1, or the adaptive one.

    In the ball ``Linf()`` it is ρ T sign(g_i). ε_i does not depend on the length of g_i, so that the gradient may be
    that of any multiple of the loss.

    Args:
        perturbation: either of the two.
    """

    def __init__(self, perturbation: GradientAscent | AdaptiveAscent) -> None:
        self.rho = perturbation.rho
        self.adaptive = perturbation if isinstance(perturbation, AdaptiveAscent) else None
        self.signs = type(perturbation.ball) is Linf

    @classmethod
    def of(cls, perturbation: object, *, balls: tuple[type[Ball], ...] = (L2,)) -> Ascent | None:
        """That of a perturbation; None for any other, subclasses of the two and other balls included."""
        if isinstance(perturbation, GradientAscent | AdaptiveAscent):
            plain = type(perturbation) in (GradientAscent, AdaptiveAscent) and type(perturbation.ball) in balls
            return cls(perturbation) if plain else None
        return None

    @property
    def is_plain(self) -> bool:
        """Whether ε is a multiple of the gradient."""
        return self.adaptive is None and not self.signs

    def factors(self, squares: Tensor) -> Tensor:
        """c_i for ‖T g_i‖²; ρ for signs."""
        return torch.full_like(squares, self.rho) if self.signs else over(self.rho, squares.sqrt())

    def scale(self, weight: Tensor) -> Tensor | None:
        """T of a weight, None where it is one."""
        if self.adaptive is None or not self.adaptive.scaled(weight):
            return None
        return weight.detach().abs() + self.adaptive.eta


class Stacks:
    """What the micro-batches of one run have of each weight, ``(number, *shape)``: gradients, then perturbed copies.

    Args:
        ascent: makes the one of the other.
    """

    def __init__(self, ascent: Ascent) -> None:
        self.ascent = ascent
        self._weights: dict[int, Tensor] = {}
        self._stacks: dict[int, Tensor] = {}

    def add(self, weight: Tensor, gradients: Tensor) -> None:
        """Take in gradients, which are kept and written into; a weight that is used twice has their sum."""
        key = id(weight)
        gradients = gradients.to(weight.dtype)
        if key in self._stacks:
            self._stacks[key] = self._stacks[key] + gradients
        else:
            self._weights[key], self._stacks[key] = weight, gradients

    def squares(self, number: int) -> Tensor | None:
        """‖T g_i‖² over all that was taken in, ``(number,)``; gradients become T g_i."""
        for key, stack in self._stacks.items():
            scale = self.ascent.scale(self._weights[key])
            if scale is not None:
                stack.mul_(scale)
        flat = [stack.reshape(number, -1) for stack in self._stacks.values()]
        small = [rows for rows in flat if rows.shape[1] < SMALL]
        rest = [rows for rows in flat if rows.shape[1] >= SMALL]
        parts = [torch.cat(small, 1), *rest] if small else rest
        total: Tensor | None = None
        for rows in parts:
            square = torch.linalg.vector_norm(rows, dim=1).square()
            total = square if total is None else total + square
        return total

    def squared(self, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight with Σ_i s_i g_i², entry by entry; ``signs`` is s, ``(number,)``."""
        for key, stack in self._stacks.items():
            yield self._weights[key], torch.tensordot(signs.to(stack), stack.square(), dims=1)

    def perturb(self, factors: Tensor) -> None:
        """Turn T g_i into w + c_i T² g_i, in place."""
        for key, stack in self._stacks.items():
            weight = self._weights[key].detach()
            if self.ascent.signs:
                stack.sign_()
            scale = self.ascent.scale(weight)
            if scale is not None:
                stack.mul_(scale)
            torch.addcmul(weight, stack, factors.view(-1, *[1] * weight.ndim), out=stack)

    def twin(self) -> Stacks:
        """The same with memory of its own."""
        twin = Stacks(self.ascent)
        twin._weights, twin._stacks = self._weights, {key: stack.clone() for key, stack in self._stacks.items()}
        return twin

    @property
    def num_bytes(self) -> int:
        """What they take."""
        return sum(stack.nbytes for stack in self._stacks.values())

    def copies(self, weight: Tensor) -> Tensor | None:
        """The perturbed copies of a weight, or None where it has none."""
        return self._stacks.get(id(weight))

    def spread(self, weight: Tensor) -> Tensor | None:
        """The same, differentiable: the gradient of the weight is the sum of those of its copies."""
        copies = self.copies(weight)
        return None if copies is None else _Spread.apply(weight, copies)  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, copies: Tensor) -> Tensor:  # noqa: ARG004
        return copies.detach()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return slopes[0].sum(0), None
