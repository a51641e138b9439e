"""The network that the theory of signal and noise is of."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class PatchNet(nn.Module):
    """Filters that look at each patch: F_j(x) = (1/m) Σ_r Σ_p ReLU(<w_jr, x⁽ᵖ⁾>) for j = -1 and +1.

    ``(n, P, d)`` -> ``(n, 2)``. The network of Chen et al. 2023 (arXiv 2310.07269), f = F₊₁ - F₋₁, with the logistic
    loss ln(1 + exp(-y f)), is this one with the cross-entropy of the two outputs. What comes after the filters is
    fixed.

    Args:
        dim: d, entries of a patch.
        filters: m, for each of the two classes.
        deviation: σ₀ of the initial weights, drawn from N(0, σ₀²).

    Raises:
        ValueError: if there is no filter or no entry, or the deviation is negative or no number.
    """

    def __init__(self, dim: int, *, filters: int, deviation: float = 0.01) -> None:
        super().__init__()
        if dim < 1 or filters < 1 or not 0 <= deviation < math.inf:
            raise ValueError(
                "dim and filters must be positive, and deviation must be a number of 0 or more; got "
                f"{dim}, {filters} and {deviation}"
            )
        self.layer = nn.Linear(dim, 2 * filters, bias=False)
        nn.init.normal_(self.layer.weight, std=deviation)

    @property
    def filters(self) -> Tensor:
        """w, ``(2, m, d)``: those for y = -1, then those for y = +1."""
        return self.layer.weight.view(2, -1, self.layer.in_features)

    def forward(self, patches: Tensor) -> Tensor:
        """F₋₁ and F₊₁ of each example, ``(n, 2)``."""
        seen = functional.relu(self.layer(patches)).sum(dim=1)  # (n, 2 m)
        return seen.view(len(seen), 2, -1).mean(dim=2)
