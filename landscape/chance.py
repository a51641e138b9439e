"""What is drawn at random, from generators that depend on named numbers and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.arguments import seed_of
from landscape.balls import Ball
from landscape.perturbations import Ascent, Slopes

_PERTURBATIONS = 0x70657274  # keeps these streams apart from those that are seeded with the same numbers elsewhere


class RandomPerturbation(Ascent):
    """ε of length ρ in a random direction: the control that shows what a gradient is needed for.

    ε is the steepest point of the ball for standard normal numbers in place of a gradient: uniform on the sphere of
    radius ρ for ``L2()``, and ±ρ by fair coins for ``Linf()``. It depends on the seed and on the key of
    :meth:`search` alone (for mSAM the step and the micro-batch, for m-sharpness the shard); the numbers are those of
    a generator of the weights' device and dtype.

    Args:
        rho: radius ρ ≥ 0 in units of the weights' norm over all blocks.
        ball: what ε may lie in, ``L2()`` when left out.
        seed: of the random numbers.

    Raises:
        ValueError: if rho is negative or not finite.

    >>> epsilon = RandomPerturbation(rho=0.5, seed=1)(torch.zeros(7), torch.zeros(7))
    >>> round(epsilon.norm().item(), 6)
    0.5
    """

    def __init__(self, rho: float, *, ball: Ball | None = None, seed: int = 0) -> None:
        super().__init__(rho, ball=ball)
        self.seed = seed_of(seed)

    def search(self, weights: list[Tensor], slopes: Slopes, *, key: tuple[int, ...] = ()) -> list[Tensor]:
        """ε for this key; no gradient is looked at."""
        del slopes
        with torch.no_grad():
            return self.ball.steepest(normals(weights, self.seed, *key), self.rho)

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ε for the empty key."""
        del gradients
        return self.ball.steepest(normals(weights, self.seed), self.rho)

    @property
    def needs_gradient(self) -> bool:
        """No."""
        return False

    @property
    def draws(self) -> bool:
        """Yes."""
        return True

    def settings(self) -> dict[str, float | str]:
        """Name, radius and seed, and the ball where it is not L2."""
        return super().settings() | {"seed": self.seed}


def normals(like: Sequence[Tensor], *numbers: int) -> list[Tensor]:
    """Standard normal numbers, one tensor per block, drawn from the stream of these numbers."""
    generator = stream(like[0].device, *numbers)
    return [torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device) for w in like]


def uniforms(like: Sequence[Tensor], *numbers: int) -> list[Tensor]:
    """Numbers that are uniform on [−1, 1), one tensor per block, drawn from the stream of these numbers."""
    generator = stream(like[0].device, *numbers)
    return [torch.rand(w.shape, generator=generator, dtype=w.dtype, device=w.device).mul_(2).sub_(1) for w in like]


def stream(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator of its own for these numbers."""
    return torch.Generator(device).manual_seed(mixed(*numbers, _PERTURBATIONS))


def mixed(*numbers: int) -> int:
    """A seed out of several numbers, far from that of any other few (SplitMix64)."""
    mix = 0
    for number in numbers:
        mix = (mix + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mix = ((mix ^ (mix >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mix = ((mix ^ (mix >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mix ^= mix >> 31
    return mix >> 1
