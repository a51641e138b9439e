"""The balls that a perturbation may lie in: which point is steepest uphill, and what is nearest inside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Scales = Sequence[Tensor] | None


class Ball(ABC):
    """All ε with ‖ε/T‖ ≤ ρ, in some norm over all entries of all blocks.

    T are positive scales of the same shapes, and 1 where they are None. An entry whose scale is zero does not move.
    """

    @abstractmethod
    def steepest(self, blocks: list[Tensor], rho: float = 1.0, scales: Scales = None) -> list[Tensor]:
        """The ε in the ball for which ⟨g, ε⟩ is largest; zero where the gradient g, given in blocks, is zero."""

    @abstractmethod
    def project(self, blocks: list[Tensor], rho: float, scales: Scales = None) -> list[Tensor]:
        """The ε in the ball that is nearest to the blocks, by the L2 norm of the difference over T."""

    @abstractmethod
    def length(self, blocks: list[Tensor], scales: Scales = None) -> Tensor:
        """‖ε/T‖, the least radius of a ball that holds the blocks; a scalar tensor."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class L2(Ball):
    """‖ε/T‖₂ ≤ ρ: the steepest ε is ρ T²g / ‖T g‖₂.

    >>> L2().steepest([torch.tensor([3.0, 4.0])], 0.5)
    [tensor([0.3000, 0.4000])]
    >>> L2().project([torch.tensor([3.0, 4.0])], 0.5)
    [tensor([0.3000, 0.4000])]
    """

    def steepest(self, blocks: list[Tensor], rho: float = 1.0, scales: Scales = None) -> list[Tensor]:
        """ρ T²g / ‖T g‖₂, block by block."""
        if scales is None:
            return list(torch._foreach_mul(blocks, over(rho, norm(blocks))))
        scaled = torch._foreach_mul(blocks, list(scales))
        factors = torch._foreach_mul(list(scales), over(rho, norm(scaled)))
        return list(torch._foreach_mul(scaled, factors))

    def project(self, blocks: list[Tensor], rho: float, scales: Scales = None) -> list[Tensor]:
        """The blocks, shortened where ‖ε/T‖₂ is above ρ."""
        length = self.length(blocks, scales)
        return list(torch._foreach_mul(blocks, torch.where(length > rho, over(rho, length), 1)))

    def length(self, blocks: list[Tensor], scales: Scales = None) -> Tensor:
        """‖ε/T‖₂."""
        return norm(_divided(blocks, scales))


class Linf(Ball):
    """max |ε/T| ≤ ρ: the steepest ε is ρ T sign(g).

    >>> Linf().steepest([torch.tensor([3.0, -4.0, 0.0])], 0.5)
    [tensor([ 0.5000, -0.5000,  0.0000])]
    >>> Linf().project([torch.tensor([3.0, -0.25])], 0.5)
    [tensor([ 0.5000, -0.2500])]
    """

    def steepest(self, blocks: list[Tensor], rho: float = 1.0, scales: Scales = None) -> list[Tensor]:
        """ρ T sign(g), block by block."""
        signs = torch._foreach_mul(list(torch._foreach_sign(blocks)), rho)
        return list(signs if scales is None else torch._foreach_mul(signs, list(scales)))

    def project(self, blocks: list[Tensor], rho: float, scales: Scales = None) -> list[Tensor]:
        """Every entry cut to ±ρ T."""
        if scales is None:
            return [block.clamp(-rho, rho) for block in blocks]
        return [block.clamp(-rho * scale, rho * scale) for block, scale in zip(blocks, scales, strict=True)]

    def length(self, blocks: list[Tensor], scales: Scales = None) -> Tensor:
        """max |ε/T|."""
        return torch.stack([block.abs().amax() for block in _divided(blocks, scales) if block.numel()]).amax()


def norm(blocks: Sequence[Tensor]) -> Tensor:
    """‖·‖₂ over all entries of all blocks, a scalar tensor."""
    length: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(blocks)))))
    return length


def over(rho: float, length: Tensor) -> Tensor:
    """ρ / length, elementwise: zero where the length is, and no number where the length overflows."""
    factor = length.reciprocal().nan_to_num_(nan=math.nan, posinf=0.0).mul_(rho)
    return factor.add_(length - length)  # zero, or no number: few and quick operations


def _divided(blocks: list[Tensor], scales: Scales) -> list[Tensor]:
    if scales is None:
        return blocks
    return [torch.where(scale > 0, block / scale, 0) for block, scale in zip(blocks, scales, strict=True)]
