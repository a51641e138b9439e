"""The mean rise in loss under normal noise in the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from landscape.answers import AverageCaseSharpness, SharpnessCurve
from landscape.balls import L2
from landscape.climbing import require_climbing, require_radii
from landscape.given import require_objective
from landscape.noise import Noise, mean_of
from landscape.objective import Objective
from landscape.perturbations import Ascent, at_radius
from landscape.progress import Progress, silent


def average_case_sharpness(
    objective: Objective, ascent: Ascent, *, num_draws: int = 50, seed: int = 0, progress: Progress = silent
) -> AverageCaseSharpness:
    """E L(w + δ) − L(w) over δ ~ N(0, ρ² T²), the noise independent from weight to weight.

    ρ is the standard deviation of each weight's noise (over its scale T), and not the norm of δ, which is ρ √dim where
    nothing is scaled. All rises are paired: they are above L(w) on the same data. Every δ is taken with −δ, so that the
    slope at w is no part of the error: what is left is that of ρ² z'THTz / 2. To second order the mean is
    ρ² tr(T H T) / 2. Source: Andriushchenko et al. 2023 (arXiv 2302.07011).

    The mean is over all the data. The mean over shards of any size would be the same, since one δ serves them all.

    Args:
        objective: the loss and the data, of training or held out.
        ascent: ρ and the scales T: ``GradientAscent(rho)`` for T = 1, ``AdaptiveAscent(rho, eta=0,
            scaled=every_tensor)`` for T = |w|.
        num_draws: how many δ; each costs two losses.
        seed: of the draws.
        progress: called with the pairs done and their number.

    Raises:
        TypeError: if the ascent is none by gradients, or a number is not an integer.
        ValueError: if the ascent's ball is not L2, or there are fewer than two draws.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> model = torch.nn.Linear(3, 1).double()
    >>> data = [(torch.ones(3, 3).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, lambda outputs, targets: outputs.mean(), data)  # linear in w: no rise on average
    >>> result = average_case_sharpness(objective, GradientAscent(rho=1.0), num_draws=4)
    >>> round(abs(result.value), 9), round(result.stderr, 9)
    (0.0, 0.0)
    """
    return _measured(objective, [ascent], num_draws, seed, progress)[0]


def average_case_curve(
    objective: Objective,
    ascent: Ascent,
    *,
    rhos: Sequence[float] | npt.NDArray[np.floating],
    num_draws: int = 50,
    seed: int = 0,
    progress: Progress = silent,
) -> SharpnessCurve:
    """:func:`average_case_sharpness` over a grid of ρ, with the same draws for all, each as it would be alone.

    Args:
        objective: as in :func:`average_case_sharpness`.
        ascent: the scales; its own radius is left out of account.
        rhos: the standard deviations, in any order, each once.
        num_draws: pairs of draws.
        seed: of the draws.
        progress: called with the pairs done and their number.

    Raises:
        TypeError: as :func:`average_case_sharpness`.
        ValueError: likewise, or if there is no ρ, one twice, or one that is negative or not finite.
    """
    ascents = [at_radius(require_climbing(ascent), rho) for rho in require_radii(rhos)]
    return SharpnessCurve.of(_measured(objective, ascents, num_draws, seed, progress))


def _measured(
    objective: Objective, ascents: list[Ascent], num_draws: int, seed: int, progress: Progress
) -> list[AverageCaseSharpness]:
    require_objective(objective)
    for ascent in ascents:
        if type(require_climbing(ascent).ball) is not L2:
            raise ValueError(
                f"normal noise has no ball {ascent.ball!r}: its deviation is rho in each weight; leave ball out"
            )
    scales = ascents[0].scales(objective.space.split(objective.weights))
    noise = Noise(objective, num_draws=num_draws, seed=seed, scales=scales)
    total = len(ascents) * noise.num_draws
    results = []
    for place, ascent in enumerate(ascents):
        samples = noise.rises(ascent.rho, progress=progress, done=place * noise.num_draws, total=total)
        value, stderr = mean_of(samples)
        settings = {"name": "average_case_sharpness", "num_draws": noise.num_draws, "seed": noise.seed}
        settings |= {"noise": "normal, rho is its standard deviation in each weight, in opposite pairs"}
        results.append(
            AverageCaseSharpness(
                value=value,
                stderr=stderr,
                samples=samples,
                rho=ascent.rho,
                loss=noise.clean,
                manifest=objective.manifest() | {"measurement": settings | ascent.settings()},
            )
        )
    return results
