"""How likely it is that a random chain of Lanczos has not seen an eigenvalue that is there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """What a Lanczos chain from a random vector has seen of an operator.

    Attributes:
        projection: of the operator on the chain, tridiagonal, ``(j, j)``.
        following: the length of what the chain would add next, its next off-diagonal entry; 0 where it has ended.
        dim: of the space that the vector was drawn from, times what something that is not random makes it longer.
    """

    projection: Tensor
    following: float
    dim: float

    def hides(self, at: float) -> float:
        """The probability that an eigenvalue there has not been seen, see :func:`chance_of_hiding`."""
        return chance_of_hiding(self.projection, at, following=self.following, dim=self.dim)

    def excludes(self, sign: float, at: float, *, chance: float) -> bool:
        """Whether no eigenvalue has sign · value ≥ sign · at, but for a small chance.

        Beyond all that the chain has found, every p_i² grows, so that what could hide farther out is less likely.
        """
        return self._outermost(sign) < sign * at and self.hides(at) < chance

    def has_found(self, sign: float, at: float, *, within: float) -> bool:
        """Whether it knows an eigenvalue with sign · value ≥ sign · at, up to a residual."""
        values, coordinates = torch.linalg.eigh(self.projection)
        beyond = sign * values >= sign * at
        return bool((beyond & (self.following * coordinates[-1].abs() <= within)).any())

    def _outermost(self, sign: float) -> float:
        return float((sign * torch.linalg.eigvalsh(self.projection)).max())


def chance_of_hiding(chain: Tensor, at: float, *, following: float, dim: float) -> float:
    """The probability that a random vector has so little of an eigenvector that a Lanczos chain cannot tell.

    A chain of j steps from x knows the first 2j moments of the spectral measure of x. No measure with these moments
    has more mass at μ than the Christoffel number 1 / Σ_{i≤j} p_i(μ)², with p_i the orthonormal polynomials of the
    chain. The mass of a random x at an eigenvalue is that of one component in ``dim``: about χ²₁ / dim. The answer is
    the probability of a mass below the bound.

    A part of x that is not random makes such a mass no more likely to be small (Anderson 1955), but for its length.

    Args:
        chain: the projection of the operator on the chain, tridiagonal, ``(j, j)``.
        at: the eigenvalue μ that is looked for.
        following: the off-diagonal entry that comes next, the length of what the last step left outside the chain.
        dim: dimension of the space that x was drawn from.

    Returns:
        A number between 0 and 1.

    Source: Szegő, Orthogonal Polynomials, 1939, section 3.41; for random starts compare Kuczyński and Woźniakowski
    1992.

    >>> p = (5 - 1) / 2  # of degree one, at 5
    >>> chance_of_hiding(torch.ones(1, 1), 5.0, following=2.0, dim=1) == math.erf(math.sqrt(1 / (1 + p**2) / 2))
    True
    """
    diagonal, beside = chain.diagonal().tolist(), [*chain.diagonal(1).tolist(), following]
    before, current, total = 0.0, 1.0, 1.0
    for i, step in enumerate(beside):
        if abs(step) * 1e150 <= 1 or total > 1e150:  # no mass is left to hide, or none that could be drawn
            return 0.0
        after = ((at - diagonal[i]) * current - (beside[i - 1] * before if i else 0.0)) / step
        before, current = current, after
        total += current**2
    return math.erf(math.sqrt(dim / total / 2))
