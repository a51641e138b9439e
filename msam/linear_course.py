"""The course of gradient descent, SAM and mSAM on least squares, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LinearCourse:
    """Weights after k steps from zero on ½ mean (Φ w - y)²: w_k = W_k y, with W_k known.

    With H_i = Φ_i'Φ_i / n_i of shard i and the perturbation ρ g of :class:`landscape.UnnormalisedAscent`, a step is

        w <- w - η (A w - B y),   A = Σ_i (n_i / n) (I + ρ H_i) H_i,   B_i = (1 / n) (I + ρ H_i) Φ_i'

    so that W_k = A⁺ (I - (I - ηA)ᵏ) B. One shard is SAM; with ρ = 0 it is gradient descent, whatever the shards. The
    error splits into what the signal is missed by and what of the noise is learnt (Behdin and Mazumder 2023, arXiv
    2302.11836, for one shard): SAM has the smaller bias and the larger variance after as many steps; and since
    Σ_i (n_i/n) H_i² ⪰ H², mSAM has yet more of both.

    Args:
        features: Φ of the training points, ``(n, r)``; the course is in their dtype.
        lr: η.
        rho: ρ.
        shards: the training points of each shard, ``(n_i,)``, every one once; one shard of all when left out.

    Raises:
        ValueError: if a point is in no shard or in two, or the descent diverges: η times the largest eigenvalue of A
            is above 2.

    >>> course = LinearCourse(torch.tensor([[2.0]]), lr=0.125, rho=0.5)  # H = 4: A = (1 + 2) 4 = 12, B = (1 + 2) 2 = 6
    >>> course.weights(1)
    tensor([[0.7500]])
    """

    def __init__(self, features: Tensor, *, lr: float, rho: float, shards: Sequence[Tensor] | None = None) -> None:
        number, dim = features.shape
        shards = [torch.arange(number, device=features.device)] if shards is None else shards
        if sorted(int(i) for shard in shards for i in shard) != list(range(number)):
            raise ValueError(f"every one of the {number} points must be in exactly one shard")
        self.lr = lr
        eye = torch.eye(dim, dtype=features.dtype, device=features.device)
        a, b = features.new_zeros(dim, dim), features.new_zeros(dim, number)
        for shard in shards:
            own = features[shard]  # (n_i, r)
            hessian = own.T @ own / len(shard)
            steeper = eye + rho * hessian
            a += len(shard) / number * steeper @ hessian
            b[:, shard] = steeper @ own.T / number
        self._values, self._vectors = torch.linalg.eigh((a + a.T) / 2)
        self._b = b
        if lr * float(self._values[-1]) > 2:
            raise ValueError(
                f"with lr {lr} and rho {rho} the descent diverges: lr times the largest eigenvalue is "
                f"{lr * float(self._values[-1]):.3g}, above 2; choose a smaller lr"
            )

    def weights(self, steps: int) -> Tensor:
        """W_k, ``(r, n)``: the weights after some steps, for each target."""
        step = self.lr * self._values
        slow = -torch.expm1(steps * torch.log1p(-step.clamp(max=0.5)))  # 1 - (1 - ηa)ᵏ, without cancellation
        gone = torch.where(step <= 0.5, slow, 1 - (1 - step) ** steps)
        # where A has no slope, but for rounding, every step adds η B y
        gained = torch.where(step > 0, gone / self._values, self.lr * steps)
        found: Tensor = self._vectors @ (gained[:, None] * (self._vectors.T @ self._b))
        return found

    def bias(self, steps: int, *, truth: Tensor, features: Tensor, there: Tensor) -> float:
        """mean (φ(x)'W_k f* - f*(x))² over some points: the squared error without noise.

        Args:
            steps: k.
            truth: f* on the training points, ``(n,)``.
            features: φ of the points, ``(t, r)``.
            there: f* on them, ``(t,)``.
        """
        return float((features @ (self.weights(steps) @ truth) - there).square().mean())

    def variance(self, steps: int, *, noise: float, features: Tensor) -> float:
        """σ² ‖Φ_t W_k‖_F² / t: the mean variance of f on some points, ``features`` ``(t, r)``, over the noise."""
        return noise**2 * float((features @ self.weights(steps)).square().sum(dim=1).mean())
