"""Normal noise in the weights, in pairs of opposite draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.chance import normals
from landscape.objective import Objective
from landscape.progress import Progress, silent
from landscape.results import Array

Measure = Callable[[Tensor], float]


class Noise:
    """δ_k = σ T z_k with z_k standard normal, k = 1 ... n: the same z_k for every σ.

    The mean of a function at w + δ and w − δ has no part that is odd in δ, which is most of its variance.

    Args:
        objective: gives w and its blocks.
        num_draws: n.
        seed: of the draws.
        scales: T, one tensor per block, 1 where None.
        measure: w -> what is averaged, the loss when left out.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if there are fewer draws than the two that leave a standard error.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        num_draws: int,
        seed: int,
        scales: list[Tensor] | None = None,
        measure: Measure | None = None,
    ) -> None:
        self.num_draws, self.seed = integer(num_draws, "num_draws", least=2), integer(seed, "seed")
        self._measure: Measure = (lambda w: objective.loss(w).item()) if measure is None else measure
        self._w, self._space, self._scales = objective.weights, objective.space, scales
        self.clean = self._measure(self._w)

    def rises(self, sigma: float, *, progress: Progress = silent, done: int = 0, total: int | None = None) -> Array:
        """The mean of the two rises above w of each pair, ``(n,)``."""
        total = self.num_draws if total is None else total
        found = np.empty(self.num_draws)
        for k in range(self.num_draws):
            delta = self._draw(k).mul_(sigma)
            rises = [self._measure(self._w + delta) - self.clean, self._measure(self._w - delta) - self.clean]
            found[k] = math.fsum(rises) / 2 if all(map(math.isfinite, rises)) else sum(rises)
            progress(done + k + 1, total)
        return found

    def _draw(self, k: int) -> Tensor:
        blocks = self._space.split(self._w)
        drawn = normals(blocks, self.seed, k)
        if self._scales is not None:
            torch._foreach_mul_(drawn, self._scales)
        return self._space.flatten(dict(zip(self._space.names, drawn, strict=True)))


def mean_of(samples: Array) -> tuple[float, float]:
    """Mean and standard error; not finite where a sample is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(samples.mean()), float(samples.std(ddof=1)) / math.sqrt(len(samples))
