"""Projected ascent with momentum, whose steps are halved when it stalls: the highest point of a ball."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.arguments import entries, integer, real
from landscape.balls import norm
from landscape.chance import normals
from landscape.perturbations import Ascent

MOMENTUM = 0.75  # the share of the new step; the rest is that of the step before
ENOUGH = 0.75  # the share of steps that must climb, or the steps are halved


@dataclass(frozen=True)
class Point:
    """A perturbation, the loss there, and its gradient unless the loss is all that is wanted."""

    epsilon: list[Tensor]
    loss: float
    gradient: list[Tensor] | None = None

    @property
    def is_infinitely_high(self) -> bool:
        """Whether the loss is infinite, or no number: there is nothing above."""
        return not self.loss < math.inf

    @property
    def leads_on(self) -> bool:
        """Whether there is a gradient to climb along, whose length is finite too."""
        return self.gradient is not None and bool(torch.isfinite(norm(self.gradient)))


# (ε, whether the gradient is wanted too) -> the point w + ε
Probe = Callable[[list[Tensor], bool], Point]


def require_radii(rhos: Sequence[float] | npt.NDArray[np.floating], name: str = "rhos") -> list[float]:
    """Radii in ascending order; they are called by a name in errors.

    Raises:
        TypeError: if one is no number.
        ValueError: if there is none, or one twice, or one that is negative or not finite.
    """
    rhos = entries(rhos, name)
    radii = sorted(real(rho, f"each of {name}") for rho in rhos)
    if not radii or len(set(radii)) < len(radii) or not all(math.isfinite(rho) and rho >= 0 for rho in radii):
        raise ValueError(f"{name} must be one or more different numbers, finite and zero or more; got {rhos}")
    return radii


def require_climbing(perturbation: object) -> Ascent:
    """What says which ball is climbed in, by what steps, must be an ascent by gradients.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(perturbation, Ascent) or not perturbation.needs_gradient:
        raise TypeError(
            "ascent must be one by gradients, such as GradientAscent(rho) or AdaptiveAscent(rho, ball=Linf()); "
            f"got {perturbation!r}"
        )
    return perturbation


def checkpoints(steps: int) -> list[int]:
    """After which steps it is looked whether the ascent stalls: ⌈p_j n⌉ with p_1 = 0.22 and intervals that shrink.

    p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), with p_0 = 0 (Croce and Hein 2020, arXiv 2003.01690).

    >>> checkpoints(20)
    [5, 9, 12, 14, 16, 18, 19, 20]
    """
    hundredths, interval, found = 22, 22, []
    while hundredths <= 100:
        found.append(-(-hundredths * steps // 100))
        interval = max(interval - 3, 6)
        hundredths += interval
    return sorted({*found, *([steps] if steps else [])})


def climb(probe: Probe, start: Point, ascent: Ascent, scales: list[Tensor] | None, *, steps: int) -> Point:
    """The highest point that is seen from a start on: x_{k+1} = P(x_k + α (z − x_k) + (1 − α)(x_k − x_{k−1})).

    z = P(x_k + η s), with s the steepest point of the unit ball at x_k, P the projection onto the ball of radius ρ, and
    α = 0.75. η is 2 ρ at first. At each of the :func:`checkpoints` it is halved, and the ascent goes on from the
    highest point, if fewer than 75 % of the steps since the last one have climbed, or if neither η nor the highest
    loss has changed since then. This is APGD (Croce and Hein 2020, arXiv 2003.01690).

    A loss that is infinite, or no number, counts as infinitely high, and ends the ascent; so does a gradient that is
    not finite, along which there is no way.

    Args:
        probe: evaluates a point.
        start: with its gradient.
        ascent: its ball, radius, and what is climbed.
        scales: of the ball.
        steps: n.
    """
    ball, rho = ascent.ball, ascent.rho
    here, best, before = start, start, start.epsilon
    step = last_step = 2 * rho
    last_loss, last_done, climbed = start.loss, 0, 0
    looks = set(checkpoints(steps))
    for done in range(1, steps + 1):
        if best.is_infinitely_high or not here.leads_on or here.gradient is None:
            break
        with torch.no_grad():
            move = ball.steepest(ascent.uphill(here.gradient), step, scales)
            there = ball.project(_plus(here.epsilon, move), rho, scales)
            if done > 1:
                drift = torch._foreach_sub(here.epsilon, before)
                there = list(torch._foreach_lerp(here.epsilon, there, MOMENTUM))
                there = ball.project(_plus(there, drift, 1 - MOMENTUM), rho, scales)
        point = probe(there, done < steps)
        climbed += point.loss > here.loss
        before, here = here.epsilon, point
        if not here.loss <= best.loss:
            best = here
        if done in looks:
            stalls = climbed < ENOUGH * (done - last_done)
            rests = step == last_step and best.loss == last_loss
            last_step, last_loss, last_done, climbed = step, best.loss, done, 0
            if stalls or rests:
                step, here = step / 2, best
    return best


def random_start(ascent: Ascent, scales: list[Tensor] | None, like: list[Tensor], *numbers: int) -> list[Tensor]:
    """A random point of the ball's surface: of the sphere, or a corner of the box, times the scales."""
    drawn = ascent.ball.steepest(normals(like, *numbers), ascent.rho)
    return drawn if scales is None else list(torch._foreach_mul(drawn, scales))


def require_counts(steps: int, restarts: int) -> tuple[int, int]:
    """How long and how often to climb.

    Raises:
        TypeError: if either is not an integer.
        ValueError: if either is below 1.
    """
    return integer(steps, "steps", least=1), integer(restarts, "restarts", least=1)


def _plus(one: list[Tensor], two: Sequence[Tensor], factor: float = 1.0) -> list[Tensor]:
    return list(torch._foreach_add(one, list(two), alpha=factor))
