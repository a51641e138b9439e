"""How likely it is that a random chain of Lanczos has not seen an eigenvalue that is there."""

from __future__ import annotations

import math

from torch import Tensor


def chance_of_hiding(chain: Tensor, at: float, *, dim: int) -> float:
    """The probability that a random vector has so little of an eigenvector that a Lanczos chain cannot tell.

    A chain of j steps from x knows the first 2j − 1 moments of the spectral measure of x. No measure with these moments
    has more mass at μ than the Christoffel number 1 / Σ_{i<j} p_i(μ)², with p_i the orthonormal polynomials of the
    chain. The mass of a random x at an eigenvalue is that of one component in ``dim``: about χ²₁ / dim. The answer is
    the probability of a mass below the bound.

    Args:
        chain: the projection of the operator on the chain, tridiagonal, ``(j, j)``.
        at: the eigenvalue μ that is looked for.
        dim: dimension of the space that x was drawn from.

    Returns:
        A number between 0 and 1.

    Source: Szegő, Orthogonal Polynomials, 1939, section 3.41; for random starts compare Kuczyński and Woźniakowski
    1992.

    >>> import torch
    >>> chance_of_hiding(torch.zeros(1, 1), 5.0, dim=1) == math.erf(math.sqrt(1 / 2))  # one step tells nothing
    True
    """
    diagonal, beside = chain.diagonal().tolist(), chain.diagonal(1).tolist()
    before, current, total = 0.0, 1.0, 1.0
    for i, step in enumerate(beside):
        if abs(step) * 1e150 <= 1 or total > 1e150:  # no mass is left to hide, or none that could be drawn
            return 0.0
        after = ((at - diagonal[i]) * current - (beside[i - 1] * before if i else 0.0)) / step
        before, current = current, after
        total += current**2
    return math.erf(math.sqrt(dim / total / 2))
