"""The PAC-Bayes sigma: how much noise in its weights a model bears."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from landscape.answers import PacBayesSigma
from landscape.answers.traces import reach_of
from landscape.arguments import real
from landscape.given import require_objective
from landscape.identity import name_of
from landscape.noise import Measure, Noise, mean_of
from landscape.objective import Objective
from landscape.progress import Progress, silent
from landscape.scores import Score, denominator_of_score, name_of_score, require_score, value_of_score
from landscape.terms import Term

FIRST = 0.01  # the first σ that is looked at
FARTHEST, NEXT = math.log(100), math.log(1.1)  # of the steps in log σ towards a bracket, the longest and the first
_LEAST = 1e-12  # of rtol: below, it is rounding that is searched
WIDEST = math.log(1e8)  # how far log σ may go from that of the first σ


def pac_bayes_sigma(
    objective: Objective,
    *,
    target: float = 0.1,
    score: Score | None = None,
    num_draws: int = 20,
    rtol: float = 0.01,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress = silent,
) -> PacBayesSigma:
    """The largest σ with E q(w + δ) − q(w) ≤ target over δ ~ N(0, σ² I), q the loss or one minus a score.

    σ is the standard deviation of each weight's noise, not its variance. The mean is over pairs δ, −δ that are the
    same for every σ, so that it is a smooth function of σ where q is; the σ at which it meets the target is bracketed,
    and found by bisection and interpolation in log σ (Brent 1973). It is the largest if the mean rise grows with σ
    beyond it, which is not checked.
    The interval is where the upper and the lower end of the confidence interval of the mean rise, by Student's t over
    the pairs, meet the target. A rise that is not finite is above any target. Jiang et al. 2020 (arXiv 1912.02178) take
    the accuracy for the score, and a target of 0.1; 1/σ² is their measure of sharpness.

    Args:
        objective: the loss and the data.
        target: of the mean rise, positive; in units of the loss or of the score.
        score: ``score(outputs, targets)``, the mean over a batch of what is better the higher it is, such as
            :data:`landscape.accuracy`; batches are weighed by its ``denominator(outputs, targets)``, and as the loss is
            where it has none. The loss rises when left out.
        num_draws: pairs; each σ that is looked at costs two evaluations for each.
        rtol: to which σ and the ends of its interval are found, relative to them.
        level: confidence of the interval.
        seed: of the draws.
        progress: called with the deviations looked at, and a number that is larger.

    Raises:
        TypeError: if a number is none, or not an integer, or the score is no function.
        ValueError: if the loss or the score is not finite at the weights, if the target or rtol is not positive and
            finite, the target is lost in the rounding of what rises, the level is not between 0 and 1, or there are
            fewer than two pairs.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w²: the mean rise is σ² times the mean of z²
    >>> one, four = (pac_bayes_sigma(objective, target=t, rtol=1e-6).sigma for t in (1.0, 4.0))
    >>> round(four / one, 4)
    2.0
    """
    require_objective(objective)
    target, rtol = _positive(target, "target"), max(_positive(rtol, "rtol"), _LEAST)
    require_score(score)
    measure = None if score is None else _shortfall(objective, score)
    noise = Noise(objective, num_draws=num_draws, seed=seed, measure=measure)
    if not math.isfinite(noise.clean):
        raise ValueError(
            f"what rises must be finite at the weights themselves; it is {noise.clean}. Check the weights."
        )
    rounding = 10 * torch.finfo(objective.weights.dtype).eps * abs(noise.clean)
    if target < rounding:
        raise ValueError(
            f"target must be above the rounding of what rises, {rounding:.1g}, where it would be lost; got {target:g}"
        )
    search = _Search(noise, target, rtol, reach_of(noise.num_draws, level), progress)
    sigma = search.crossing(0)
    low, high = search.crossing(1, near=sigma), search.crossing(-1, near=sigma)
    sigmas = np.array(sorted(search.seen))
    means = np.array([search.seen[each] for each in sigmas]).reshape(-1, 2)
    quantity = name_of_score(score) or "loss"
    settings = {"name": "pac_bayes_sigma", "target": target, "num_draws": noise.num_draws}
    settings |= {"quantity": quantity if score is None else f"one minus {name_of(score)}"}
    settings |= {"rtol": rtol, "level": level, "seed": noise.seed, "noise": "sigma is its standard deviation"}
    return PacBayesSigma(
        sigma=sigma,
        low=low,
        high=high,
        level=level,
        target=target,
        quantity=quantity,
        sigmas=sigmas,
        rises=means[:, 0],
        stderrs=means[:, 1],
        num_draws=noise.num_draws,
        manifest=objective.manifest() | {"measurement": settings},
    )


class _Search:
    """Where the mean rise, or a bound on it, meets the target."""

    def __init__(self, noise: Noise, target: float, rtol: float, reach: float, progress: Progress) -> None:
        self.noise, self.target, self.rtol, self.reach, self.progress = noise, target, rtol, reach, progress
        self.seen: dict[float, tuple[float, float]] = {}

    def bound(self, log_sigma: float, side: int) -> float:
        """The mean rise, and ``side`` times its reach; ∞ where it is not finite."""
        sigma = math.exp(log_sigma)
        if sigma not in self.seen:
            self.seen[sigma] = mean_of(self.noise.rises(sigma))
            self.progress(len(self.seen), len(self.seen) + 1)
        mean, stderr = self.seen[sigma]
        bound = mean + side * self.reach * stderr
        return bound if math.isfinite(bound) else math.inf

    def excess(self, log_sigma: float, side: int) -> float:
        """(bound − target) / (|bound| + target), between −1 and 1."""
        bound = self.bound(log_sigma, side)
        return 1.0 if bound == math.inf else (bound - self.target) / (abs(bound) + self.target)

    def crossing(self, side: int, *, near: float = FIRST) -> float:
        """The σ where the bound meets the target; 0 or ∞ where none within reach does."""
        start = math.log(near if 0 < near < math.inf else FIRST)
        for _ in range(2):  # where it would be if the bound were quadratic in σ
            if 0 < (bound := self.bound(start, side)) < math.inf:
                start += min(max(math.log(self.target / bound) / 2, -FARTHEST), FARTHEST)
        above = self.excess(start, side) > 0
        far, step = start, (-1 if above else 1) * NEXT
        while (self.excess(far, side) > 0) == above:
            start, far, step = far, far + step, 2 * step
            if abs(far - math.log(FIRST)) > WIDEST:
                return 0.0 if above else math.inf
        low, high = sorted((start, far))
        return math.exp(brentq(self.excess, low, high, args=(side,), xtol=self.rtol / 2, rtol=1e-12))


def _shortfall(objective: Objective, score: Score) -> Measure:
    """One minus the mean score at given weights."""

    def value(term: Term, w: Tensor) -> tuple[Tensor]:
        outputs = term.outputs(w)
        term.count = denominator_of_score(score, term.definition.denominator)(outputs, term.targets)
        return (value_of_score(score, outputs, term.targets).to(w.dtype),)

    def measure(w: Tensor) -> float:
        like = (w.new_zeros(()),)
        with torch.no_grad():
            (mean,), _ = objective.work.means(objective.work.loss_terms, lambda term: value(term, w), like=like)
        return 1 - mean.item()

    return measure


def _positive(value: float, name: str) -> float:
    value = real(value, name)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value}")
    return value
