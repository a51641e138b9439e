"""Universal SAM: steps along the gradient of the loss and of a sharpness that random probes near w estimate.

Nothing ascends here. Tahmasebi et al. 2024 (arXiv 2406.03682) write a sharpness as φ(E_u ψ(x_u)) with the relative rise
x_u = (L(w + ρ u) − L(w)) / ρ², which is u'Hu/2 for small ρ where the gradient vanishes. What the sources of that paper
step along is g + λ times an estimate of its gradient, and so is this, factor by factor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.arguments import integer, not_negative
from landscape.chance import normals, uniforms
from msam.descents import Descent, Probe, chosen, spread


class Universal(Descent):
    """g + λ · an estimate from n random probes, each a forward and a backward pass at w + ρ u.

    The probes u of a micro-batch depend on the seed, the step and the number of the micro-batch alone.

    Args:
        rho: radius ρ ≥ 0 in units of a weight, that is, per coordinate of u; 0 is the gradient alone.
        lam: λ ≥ 0, the weight of the sharpness; 0 is the gradient alone.
        samples: n ≥ 1, probes for each micro-batch.
        seed: of the probes.

    Raises:
        ValueError: if rho or lam is negative or not finite, or samples too small.
    """

    least_samples = 1

    def __init__(self, rho: float, *, lam: float, samples: int, seed: int = 0) -> None:
        self.rho = rho
        self.lam = not_negative(lam, "lam")
        self.samples = integer(samples, "samples")
        if self.samples < self.least_samples:
            raise ValueError(f"samples must be at least {self.least_samples}; got {samples}")
        self.seed = integer(seed, "seed")

    @property
    def rho(self) -> float:
        """The radius ρ; schedules change it."""
        return self._rho

    @rho.setter
    def rho(self, value: float) -> None:
        """Change it."""
        self._rho = not_negative(value, "rho")

    def direction(
        self, weights: list[Tensor], probe: Probe, *, perturbed: Sequence[bool], key: tuple[int, ...]
    ) -> list[Tensor]:
        """g + λ · estimate, block by block."""
        loss, gradient = probe(None)
        probed = chosen(weights, perturbed)
        shares: list[Tensor] = []
        plain, shared = _zeros(gradient), _zeros(gradient)  # Σ d_i and Σ share_i · d_i, d_i = ∇L(w + ρ u_i) − ∇L(w)
        for number in range(self.samples):
            u = self._draw(probed, (self.seed, *key, number))
            loss_there, gradient_there = probe(spread(list(torch._foreach_mul(u, self.rho)), perturbed))
            difference = torch._foreach_sub(gradient_there, gradient)
            shares.append(self._share(loss_there - loss))
            torch._foreach_add_(plain, difference)
            torch._foreach_add_(shared, torch._foreach_mul(difference, shares[-1]))
        of_plain, of_shared = self._factors(torch.stack(shares))
        torch._foreach_mul_(plain, self.lam * of_plain)
        torch._foreach_mul_(shared, self.lam * of_shared)
        return list(torch._foreach_add(torch._foreach_add(gradient, plain), shared))

    @abstractmethod
    def _share(self, rise: Tensor) -> Tensor:
        """What one probe counts, by the rise in loss L(w + ρ u) − L(w)."""

    @abstractmethod
    def _factors(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """What Σ d_i and Σ share_i · d_i are multiplied by in the estimate, from the shares, ``(n,)``."""

    def _draw(self, like: list[Tensor], numbers: tuple[int, ...]) -> list[Tensor]:
        """u, from the stream of these numbers."""
        return normals(like, *numbers)

    @property
    def is_plain(self) -> bool:
        """Whether ρ or λ is zero."""
        return self.rho == 0 or self.lam == 0

    @property
    def draws(self) -> bool:
        """Yes."""
        return True

    def settings(self) -> dict[str, float | str]:
        """Name, ρ, λ, number of probes and seed."""
        name, numbers = type(self).__name__, {"rho": self.rho, "lam": self.lam}
        return {"perturbation": name, **numbers, "samples": self.samples, "seed": self.seed}

    def __repr__(self) -> str:
        name, *rest = self.settings().items()
        return f"{name[1]}({', '.join(f'{key}={value}' for key, value in rest)})"


class TraceDescent(Universal):
    """g + λ · mean of ∇L(w + ρ u) − ∇L(w) over u ~ N(0, I).

    Its expectation is g + λ ∇(E_u L(w + ρ u) − L(w)), which is g + λ ρ² ∇ tr H / 2 where L is cubic, whatever ρ. With
    λ = 1 it is the gradient of the loss averaged over Gaussian noise. The sources of the paper scale nothing to the
    sphere that the paper draws u from; neither does this.

    Args:
        rho: radius ρ ≥ 0 in units of a weight; 0 is the gradient alone. The source uses 0.01.
        lam: λ ≥ 0, the weight of the sharpness. The source uses 1.
        samples: n ≥ 1, probes for each micro-batch.
        seed: of the probes.

    Raises:
        ValueError: if rho or lam is negative or not finite, or samples below one.

    >>> from landscape.perturbations import GradientAscent
    >>> from msam import mSAM
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> loss = mSAM(torch.optim.SGD([w], lr=1.0), TraceDescent(rho=0.5)).step(lambda x: (x * w).mean(), torch.ones(2))
    >>> w.item()  # a linear loss has no curvature
    0.0
    """

    def __init__(self, rho: float, *, lam: float = 1.0, samples: int = 1, seed: int = 0) -> None:
        super().__init__(rho, lam=lam, samples=samples, seed=seed)

    def _share(self, rise: Tensor) -> Tensor:
        return torch.ones_like(rise)

    def _factors(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        return shares.new_zeros(()), 1 / shares.sum()


class FrobeniusDescent(Universal):
    """g + λ/ρ² · the covariance of L(w + ρ u) and ∇L(w + ρ u) over u ~ N(0, I), estimated without bias from n ≥ 2.

    Its expectation is g + λ/(2ρ²) ∇ Var_u L(w + ρ u). Where L is cubic that is g + λ (H ∇L_ρ + ρ²/4 ∇ ‖H‖_F²) with
    L_ρ = E_u L(w + ρ u): along a valley of minima λ ρ²/4 times the gradient of ‖H‖_F², on a slope mostly λ H g.

    Args:
        rho: radius ρ ≥ 0 in units of a weight; 0 is the gradient alone. The source uses 0.005.
        lam: λ ≥ 0, the weight of the sharpness. The source uses 0.005.
        samples: n ≥ 2, probes for each micro-batch.
        seed: of the probes.

    Raises:
        ValueError: if rho or lam is negative or not finite, or samples below two.

    >>> from msam import mSAM
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> loss = mSAM(torch.optim.SGD([w], lr=1.0), FrobeniusDescent(0.5)).step(lambda x: (x * w).mean(), torch.ones(2))
    >>> w.item()  # a linear loss has no curvature
    0.0
    """

    least_samples = 2

    def __init__(self, rho: float, *, lam: float = 0.005, samples: int = 2, seed: int = 0) -> None:
        super().__init__(rho, lam=lam, samples=samples, seed=seed)

    def _share(self, rise: Tensor) -> Tensor:
        return rise / ((self.samples - 1) * self.rho**2)

    def _factors(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        return -shares.mean(), shares.new_ones(())


class DeterminantDescent(Universal):
    """g + λ · φ'(ψ̄) · mean of ψ'(x_u) (∇L(w + ρ u) − ∇L(w)) with φ(t) = 1/t², ψ(x) = exp(−x/2), ψ̄ = mean of ψ(x_u).

    u is uniform on the cube [−c, c]^dim. The estimate is of λ ρ² ∇ φ(E ψ(x_u)), with the bias of a function of a mean
    that falls with 1/n: a single probe estimates λ ρ² ∇ E exp(x_u). Along a valley of minima, with ρ small and a cube
    that is wide against 1/√λ of the k curvatures across it, φ(E ψ(x_u)) is (c²/π)^k times their product, the
    determinant of the Hessian across. With the narrow cube of the source it is 1 + E x_u, as for the trace.

    Args:
        rho: radius ρ ≥ 0 in units of a weight; 0 is the gradient alone. The source uses 1.
        lam: λ ≥ 0, the weight of the sharpness. The source uses 1.
        half_width: c > 0, half the side of the cube.
        samples: n ≥ 1, probes for each micro-batch.
        seed: of the probes.

    Raises:
        ValueError: if rho or lam is negative or not finite, half_width not positive, or samples below one.

    >>> from msam import mSAM
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> loss = mSAM(torch.optim.SGD([w], lr=1.0), DeterminantDescent(1.0)).step(lambda x: (x * w).mean(), torch.ones(2))
    >>> w.item()  # a linear loss has no curvature
    0.0
    """

    def __init__(
        self, rho: float, *, lam: float = 1.0, half_width: float = 0.01, samples: int = 1, seed: int = 0
    ) -> None:
        super().__init__(rho, lam=lam, samples=samples, seed=seed)
        self.half_width = not_negative(half_width, "half_width")
        if self.half_width == 0:
            raise ValueError("half_width must be positive; got 0")

    def _share(self, rise: Tensor) -> Tensor:
        return torch.exp(-rise / (2 * self.rho**2))

    def _factors(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        return shares.new_zeros(()), 1 / (self.samples * shares.mean() ** 3)  # φ' ψ' = (−2/ψ̄³)(−ψ/2)

    def _draw(self, like: list[Tensor], numbers: tuple[int, ...]) -> list[Tensor]:
        return list(torch._foreach_mul(uniforms(like, *numbers), self.half_width))

    def settings(self) -> dict[str, float | str]:
        """Name, ρ, λ, number of probes, seed and half the side of the cube."""
        return super().settings() | {"half_width": self.half_width}


def _zeros(like: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(block) for block in like]
