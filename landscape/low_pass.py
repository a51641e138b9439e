"""The loss after a Gaussian low-pass filter."""

from __future__ import annotations

from landscape.answers import LowPassFlatness
from landscape.arguments import not_negative
from landscape.average_case import average_case_sharpness
from landscape.noise import mean_of
from landscape.objective import Objective
from landscape.perturbations import GradientAscent
from landscape.progress import Progress, silent


def low_pass_flatness(
    objective: Objective, *, sigma: float, num_draws: int = 50, seed: int = 0, progress: Progress = silent
) -> LowPassFlatness:
    """E L(w + δ) over δ ~ N(0, σ² I): the loss convolved with a Gaussian kernel, low where w is low and flat.

    It is L(w) and :func:`landscape.average_case_sharpness` in one number: to second order L(w) + σ² tr(H) / 2. Every δ
    is taken with −δ. Source: Bisla, Wang and Choromanska 2022 (arXiv 2201.08025).

    Args:
        objective: the loss and the data, of training or held out.
        sigma: standard deviation σ ≥ 0 of the noise in each weight.
        num_draws: how many δ; each costs two losses.
        seed: of the draws.
        progress: called with the pairs done and their number.

    Raises:
        TypeError: if a number is none, or not an integer.
        ValueError: if sigma is negative or not finite, or there are fewer than two draws.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1
    >>> result = low_pass_flatness(objective, sigma=0.0)
    >>> result.value, result.stderr
    (1.0, 0.0)
    """
    sigma = not_negative(sigma, "sigma", what="standard deviation")
    rise = average_case_sharpness(objective, GradientAscent(sigma), num_draws=num_draws, seed=seed, progress=progress)
    samples = rise.loss + rise.samples
    value, stderr = mean_of(samples)
    settings = {"name": "low_pass_flatness", "sigma": sigma}
    settings |= {name: rise.manifest["measurement"][name] for name in ("num_draws", "seed")}
    return LowPassFlatness(
        value=value,
        stderr=stderr,
        samples=samples,
        sigma=sigma,
        loss=rise.loss,
        manifest=dict(rise.manifest) | {"measurement": settings},
    )
