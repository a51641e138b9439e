"""The ascent of SAM whose length is not fixed."""

from __future__ import annotations

from torch import Tensor

from landscape.perturbations import InBall


class UnnormalisedAscent(InBall):
    """ε = ρ g: a step along the gradient that is as long as the gradient is steep.

    The theory of SAM is mostly of this one (Andriushchenko and Flammarion 2022, arXiv 2206.06232; Behdin and Mazumder
    2023, arXiv 2302.11836), for on a quadratic it is linear: ∇L(w + ρ g) = (I + ρ H) g. It vanishes at a minimum, and
    its ρ is a step size, to be compared with 1/λ_max and not with the radius of :class:`GradientAscent`.

    Args:
        rho: ρ ≥ 0, in units of a step size.

    Raises:
        ValueError: if rho is negative or not finite.

    >>> import torch
    >>> UnnormalisedAscent(rho=0.5)(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([1.5000, 2.0000])
    """

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ρ g, block by block."""
        del weights
        return [self.rho * g for g in gradients]

    def settings(self) -> dict[str, float | str]:
        """Name and ρ."""
        return {"perturbation": type(self).__name__, "rho": self.rho}
