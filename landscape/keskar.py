"""Keskar's sharpness: the highest loss in a box whose sides grow with the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.answers import KeskarSharpness
from landscape.arguments import integer, not_negative
from landscape.balls import Linf
from landscape.chance import normals
from landscape.climbing import Point, climb, random_start, require_counts
from landscape.given import require_objective
from landscape.noise import mean_of
from landscape.objective import Objective
from landscape.perturbations import GradientAscent
from landscape.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class RandomSubspaces:
    """Where the source measures to keep the cost low: subspaces spanned by random columns of length one.

    Attributes:
        dim: p, dimensions of each.
        number: how many, for a standard error.
    """

    dim: int = 100
    number: int = 5

    def __post_init__(self) -> None:
        integer(self.dim, "dim", least=1)
        integer(self.number, "number", least=1)


def keskar_sharpness(
    objective: Objective,
    *,
    epsilon: float = 1e-3,
    within: RandomSubspaces | None = None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> KeskarSharpness:
    """100 · [max_{z ∈ C} L(w + A z) − L(w)] / (1 + L(w)), C the box |z_i| ≤ ε (|(A⁺w)_i| + 1); A = I without subspaces.

    Of all the data at once, by the projected ascent of :func:`landscape.climbing.climb`; the source (Keskar et al.
    2017, arXiv 1609.04836) takes ten iterations of L-BFGS-B for it, random A of 100 columns, and ε of 10⁻³ and
    5 · 10⁻⁴. The source does not say how long the columns of A are; they have length one here. The largest loss seen
    counts, that at w included; it is a lower bound on the maximum. A loss that is not finite is infinitely high.

    Args:
        objective: the loss and the data.
        epsilon: ε ≥ 0.
        within: random subspaces that are measured instead of all directions; their columns are held, ``(dim, p)``.
        steps: of each ascent; each costs a gradient.
        restarts: ascents: the first from w, the others from random corners of the box.
        seed: of the subspaces and corners.
        progress: called with the ascents done and their number.

    Raises:
        TypeError: if a number is none, or not an integer.
        ValueError: if epsilon is negative or not finite, or another number is too small, or a subspace has more
            dimensions than there are weights; or if L(w) is not finite, or −1 or less.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1: the box is 1 ± 2ε
    >>> keskar_sharpness(objective, epsilon=0.25).value  # 100 (1.5² − 1) / 2
    62.5
    """
    require_objective(objective)
    epsilon = not_negative(epsilon, "epsilon")
    steps, restarts = require_counts(steps, restarts)
    seed, dim = integer(seed, "seed"), objective.space.dim
    if within is not None and (not isinstance(within, RandomSubspaces) or within.dim > dim):
        raise ValueError(f"within must be RandomSubspaces of at most {dim} dimensions, or None; got {within!r}")
    number = 1 if within is None else within.number
    loss = objective.loss(objective.weights).item()
    if not -1 < loss < math.inf:
        raise ValueError(f"the rise is relative to 1 + L(w), which must be positive and finite; L(w) is {loss:.6g}")
    samples = np.empty(number)
    for i in range(number):
        columns = None if within is None else _columns(objective.weights, within.dim, seed, i)
        box = _Box(objective, columns, epsilon)
        highest = loss
        for start in range(restarts):
            found = box.highest((seed, i, start), steps)
            highest = found if not found <= highest else highest
            progress(i * restarts + start + 1, number * restarts)
        rise = highest - loss if math.isfinite(highest) else math.inf
        samples[i] = 100 * rise / (1 + loss)
    value, stderr = mean_of(samples) if len(samples) > 1 else (float(samples[0]), math.nan)
    settings = {"name": "keskar_sharpness", "epsilon": epsilon, "steps": steps, "restarts": restarts, "seed": seed}
    if within is not None:
        settings |= {"subspace": within.dim, "num_subspaces": within.number, "columns": "normal, of length one"}
    return KeskarSharpness(
        value=value,
        stderr=stderr,
        samples=samples,
        loss=loss,
        epsilon=epsilon,
        subspace=None if within is None else within.dim,
        manifest=objective.manifest() | {"measurement": settings},
    )


class _Box:
    """The box in all directions, or in those of some columns."""

    def __init__(self, objective: Objective, columns: Tensor | None, epsilon: float) -> None:
        self.objective, self.columns = objective, columns
        w = objective.weights
        size = w if columns is None else torch.linalg.lstsq(columns.cpu(), w.cpu()[:, None]).solution[:, 0].to(w)
        self.scales = [size.abs() + 1]
        self.ascent = GradientAscent(epsilon, ball=Linf())

    def highest(self, numbers: tuple[int, int, int], steps: int) -> float:
        """The highest loss seen from w on; from a random corner where the last number, or the slope at w, says so."""
        like = torch.zeros_like(self.scales[0])
        start = self.probe([like], True)
        if numbers[-1] > 0 or not any(bool(part.any()) for part in start.gradient or ()):
            start = self.probe(random_start(self.ascent, self.scales, [like], *numbers), True)
        return climb(self.probe, start, self.ascent, self.scales, steps=steps).loss

    def probe(self, z: list[Tensor], with_gradient: bool) -> Point:
        """The point w + A z."""
        w, columns = self.objective.weights, self.columns
        place = w + (z[0] if columns is None else columns @ z[0])
        if not with_gradient:
            return Point(z, self.objective.loss(place).item())
        loss, gradient = self.objective.loss_and_gradient(place)
        return Point(z, loss.item(), [gradient if columns is None else columns.T @ gradient])


def _columns(w: Tensor, count: int, *numbers: int) -> Tensor:
    """Random columns of length one, ``(dim, count)``."""
    (drawn,) = normals([w.new_empty(len(w), count)], *numbers)
    length: Tensor = torch.linalg.vector_norm(drawn, dim=0)
    return drawn / length
