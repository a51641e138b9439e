"""The highest loss in a ball around the weights, shard by shard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from landscape.answers import SharpnessCurve, WorstCaseSharpness
from landscape.arguments import integer
from landscape.climbing import Point, climb, random_start, require_climbing, require_counts, require_radii
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.parts import over_shards, weighted_mean
from landscape.perturbations import Ascent, at_radius
from landscape.progress import Progress, silent
from landscape.results import Array

_NONE, _FROM_W, _FROM_LAST = 0, -1, -2  # where an ascent began; random starts count from 1


def worst_case_sharpness(
    objective: Objective,
    ascent: Ascent,
    *,
    microbatch_size: int = 128,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> WorstCaseSharpness:
    """Σ_i d_i/Σd max_{‖ε/T‖ ≤ ρ} [L_{S_i}(w + ε) − L_{S_i}(w)] over disjoint shards S_i of the data, from below.

    The maximum is sought by APGD, see :func:`landscape.climbing.climb`: projected ascent with momentum 0.75, whose
    first step is 2 ρ and is halved when progress stalls. The largest loss seen counts, that at w included, so that the
    rise of a shard is never negative. It is a lower bound on the maximum. A point whose loss is infinite, or no number,
    counts as infinitely high: the rise is then ∞. This is the worst-case sharpness of Andriushchenko et al. 2023 (arXiv
    2302.07011), who take 20 steps on shards of 128 of 1,024 training examples; their ascent steps of the adaptive L2
    ball are along T g, those here along T² g, which is steepest there.

    Args:
        objective: the loss and the data, of training or held out; shards are consecutive examples. Processes that
            share its work divide the shards.
        ascent: the ball and its radius: ``GradientAscent(rho)``, ``GradientAscent(rho, ball=Linf())``, or scaled by
            the weights ``AdaptiveAscent(rho, eta=0, scaled=every_tensor)``, where weights of zero do not move.
        microbatch_size: examples per shard; the last shard has what is left.
        steps: of each ascent; each costs a gradient.
        restarts: ascents per shard: the first from w, the others from random points of the ball's surface. Where the
            gradient at w is zero the first one begins at random too.
        seed: of the random points.
        progress: called with the shards done and their number.

    Returns:
        Value, standard error over shards, and for each shard its rise, which start found it, and how far away.

    Raises:
        TypeError: if the ascent is none that climbs by gradients, or a number is not an integer.
        ValueError: if the size is not between 1 and the number of examples, a number is too small, or no shard has
            anything to count.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1
    >>> result = worst_case_sharpness(objective, GradientAscent(rho=0.5), microbatch_size=2)
    >>> result.value, result.per_shard.tolist(), result.starts.tolist()
    (1.25, [1.25, 1.25], ['w', 'w'])
    """
    return _measured(objective, [ascent], microbatch_size, steps, restarts, seed, progress, more={})[0]


def worst_case_curve(
    objective: Objective,
    ascent: Ascent,
    *,
    rhos: Sequence[float] | npt.NDArray[np.floating],
    microbatch_size: int = 128,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> SharpnessCurve:
    """:func:`worst_case_sharpness` over a grid of radii, which never falls from one to the next.

    The first ascent of a shard at the least radius begins at w; at every further radius it begins at the point found
    at the last one, moved out to the new radius, and what was found there stays the least that is found now.

    Args:
        objective: as in :func:`worst_case_sharpness`.
        ascent: its ball; its own radius is left out of account.
        rhos: the radii, in any order, each once.
        microbatch_size: as in :func:`worst_case_sharpness`, like the rest.
        steps: of each ascent.
        restarts: ascents per shard and radius.
        seed: of random starts.
        progress: called with the shards done and their number.

    Raises:
        TypeError: as :func:`worst_case_sharpness`.
        ValueError: likewise, or if there is no radius, one twice, or one that is negative or not finite.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1
    >>> worst_case_curve(objective, GradientAscent(1.0), rhos=[1.0, 0.5], microbatch_size=3).values.tolist()
    [1.25, 3.0]
    """
    radii = require_radii(rhos)
    ascents = [at_radius(require_climbing(ascent), rho) for rho in radii]
    more = {"begun_at": "the last radius", "radii": radii}
    return SharpnessCurve.of(_measured(objective, ascents, microbatch_size, steps, restarts, seed, progress, more=more))


def _measured(
    objective: Objective,
    ascents: list[Ascent],
    microbatch_size: int,
    steps: int,
    restarts: int,
    seed: int,
    progress: Progress,
    *,
    more: dict[str, Any],
) -> list[WorstCaseSharpness]:
    """One result per ascent; their radii ascend."""
    require_objective(objective)
    steps, restarts = require_counts(steps, restarts)
    seed = integer(seed, "seed")
    for ascent in ascents:
        require_climbing(ascent)

    def ask(number: int, shard: Objective) -> list[float]:
        return _Shard(shard, steps, restarts, (seed, number)).highest(ascents)

    found = over_shards(objective, microbatch_size, ask, questions=3 * len(ascents), progress=progress)
    size, shards = integer(microbatch_size, "microbatch_size"), {"order": objective.order}
    settings = {"name": "worst_case_sharpness", "microbatch_size": size, "steps": steps, "restarts": restarts}
    settings |= {"seed": seed, **more}
    results = []
    for place, ascent in enumerate(ascents):
        rises, codes, lengths = found.values[:, 3 * place : 3 * place + 3].T
        value, stderr = weighted_mean(rises, found.denominators)
        results.append(
            WorstCaseSharpness(
                value=value,
                stderr=stderr,
                per_shard=rises,
                shard_sizes=found.sizes,
                denominators=found.denominators,
                microbatch_size=size,
                starts=_names(codes),
                lengths=lengths,
                manifest=objective.manifest() | {"measurement": settings | ascent.settings(), "shards": shards},
            )
        )
    return results


class _Shard:
    """The search for the highest loss of one shard."""

    def __init__(self, shard: Objective, steps: int, restarts: int, numbers: tuple[int, int]) -> None:
        self.shard, self.steps, self.restarts, self.numbers = shard, steps, restarts, numbers
        self.w = shard.weights
        self.blocks = shard.space.split(self.w)

    def probe(self, epsilon: list[Tensor], with_gradient: bool) -> Point:
        """The point w + ε."""
        space = self.shard.space
        place = space.flatten(dict(zip(space.names, epsilon, strict=True))).add_(self.w)
        if not with_gradient:
            return Point(epsilon, self.shard.loss(place).item())
        loss, gradient = self.shard.loss_and_gradient(place)
        return Point(epsilon, loss.item(), space.split(gradient))

    def highest(self, ascents: list[Ascent]) -> list[float]:
        """For each ascent the rise, the code of its start, and the length."""
        clean = self.probe([block.new_zeros(block.shape) for block in self.blocks], True)
        if not math.isfinite(clean.loss):  # there is no rise from there
            return [math.nan, _NONE, math.nan] * len(ascents)
        scales = ascents[0].scales(self.blocks)
        moves = clean.leads_on and any(bool(part.any()) for part in ascents[0].uphill(clean.gradient or []))
        best, answers, last = clean, [], 0.0
        for ascent in ascents:
            code = _NONE if best is clean else _FROM_LAST  # kept if nothing higher is found
            for start, begun in self._starts(ascent, scales, clean if moves else None, best, last):
                if best.is_infinitely_high:
                    break
                found = climb(self.probe, start, ascent, scales, steps=self.steps)
                if not found.loss <= best.loss:
                    best, code = found, begun
            length = 0.0 if best is clean else float(ascent.ball.length(best.epsilon, scales))
            answers += [math.inf if best.is_infinitely_high else best.loss - clean.loss, code, length]
            last = ascent.rho
        return answers

    def _starts(
        self, ascent: Ascent, scales: list[Tensor] | None, clean: Point | None, best: Point, last: float
    ) -> Iterator[tuple[Point, int]]:
        """Where to begin, with its code: w or the highest point so far, then random points."""
        if ascent.is_zero:
            return
        first = 1
        if last > 0 and any(bool(part.any()) for part in best.epsilon):
            yield self.probe([part * (ascent.rho / last) for part in best.epsilon], True), _FROM_LAST
        elif clean is not None:
            yield clean, _FROM_W
        else:
            first = 0
        for number in range(first, self.restarts):
            epsilon = random_start(ascent, scales, self.blocks, *self.numbers, number)
            yield self.probe(epsilon, True), number + 1 - first


def _names(codes: Array) -> Array:
    known = {_NONE: "none", _FROM_W: "w", _FROM_LAST: "last radius"}
    return np.array([known.get(int(code), f"random {int(code)}") for code in codes])
