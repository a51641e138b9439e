"""A curved path between two checkpoints, trained to stay low."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.answers.paths import PathLosses
from landscape.arguments import integer
from landscape.batch_norm import Statistics, needing_variance
from landscape.batches import Batch, concatenate, num_examples, rows
from landscape.chance import mixed
from landscape.identity import name_of
from landscape.objective import Objective
from landscape.pairs import Pair
from landscape.paths import interpolate as interpolate, look_along
from landscape.precision import doubled
from landscape.products import slope_of
from landscape.progress import Progress, silent
from landscape.scores import Score
from landscape.seen import Eyes
from landscape.terms import Term

_ADAM = functools.partial(torch.optim.Adam, lr=0.01)
_BENDS = 0x62656E64  # keeps these streams apart from those that are seeded with the same numbers elsewhere
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Quadratic:
    """(1 − t)² a + 2 t (1 − t) θ + t² b, the quadratic Bezier curve from a to b with the bend θ.

    Args:
        a: weights, ``(dim,)``.
        bend: θ, ``(dim,)``.
        b: weights, ``(dim,)``.
        settings: how the bend was found, for a manifest.
    """

    name = "Bezier curve"

    def __init__(self, a: Tensor, bend: Tensor, b: Tensor, settings: dict[str, Any]) -> None:
        self.a, self.bend, self.b = a, bend, b
        self._settings = settings

    def at(self, t: float) -> Tensor:
        """The weights at t, ``(dim,)``."""
        return (1 - t) ** 2 * self.a + 2 * t * (1 - t) * self.bend + t**2 * self.b

    @property
    def length(self) -> float:
        """∫₀¹ ‖2 (1 − t) (θ − a) + 2 t (b − θ)‖ dt, by Gauss-Legendre quadrature at 64 nodes."""
        first, last = doubled(2 * (self.bend - self.a)), doubled(2 * (self.b - self.bend))
        squares = [float(one @ two) for one, two in ((first, first), (first, last), (last, last))]
        t = (_NODES + 1) / 2
        speeds = (1 - t) ** 2 * squares[0] + 2 * t * (1 - t) * squares[1] + t**2 * squares[2]
        return float(_WEIGHTS @ np.sqrt(np.maximum(speeds, 0))) / 2

    def settings(self) -> dict[str, Any]:
        """How the bend was found."""
        return self._settings


@dataclass(frozen=True, kw_only=True)
class BendTraining:
    """How the bend of a curve is trained: mini-batches in random order, each at a t that is uniform on (0, 1).

    Attributes:
        epochs: passes over the data.
        batch_size: examples per step; the last of an epoch has what is left, but a single one, where batch norm is
            recomputed, goes with those before.
        optimizer: makes a torch optimizer of a list of tensors; its learning rate falls to zero along a cosine.
        seed: of the order of the examples and of the t.

    Raises:
        TypeError, ValueError: if a number is out of range, or the optimizer cannot be called.
    """

    epochs: int = 30
    batch_size: int = 100
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = _ADAM
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            integer(getattr(self, name), name, least=least)
        if not callable(self.optimizer):
            raise TypeError(f"optimizer must make one of a list of tensors; got {self.optimizer!r}")

    def settings(self) -> dict[str, Any]:
        """What tells it from others, for a manifest."""
        numbers = {name: int(getattr(self, name)) for name in ("epochs", "batch_size", "seed")}
        return numbers | {"optimizer": name_of(self.optimizer), "schedule": "cosine"}


def bezier(
    objective: Objective,
    other: Objective,
    *,
    training: BendTraining | None = None,
    points: int = 25,
    tolerance: float = 1e-3,
    batch_norm: Statistics | None = None,
    held_out: Objective | None = None,
    score: Score | None = None,
    progress: Progress = silent,
) -> PathLosses:
    """L along the curve (1 − t)² a + 2 t (1 − t) θ + t² b, with the bend θ trained to minimise E_t L(path(t)).

    θ starts in the middle between a and b, where the curve is the straight line, and takes steps along stochastic
    gradients 2 t (1 − t) ∇L_B(path(t)), with a mini-batch B and one t ~ U(0, 1) for each. The checkpoints stay as they
    are. Losses are then looked at as by :func:`landscape.interpolate`.

    Args:
        objective: gives a and L, in whose data mini-batches are drawn.
        other: the same loss over the same data for the checkpoint b.
        training: of the bend.
        points, tolerance, batch_norm, held_out, score: see :func:`landscape.interpolate`.
        progress: called with the steps done and their number, then with the points.

    Returns:
        Losses and barriers along the curve, with the bend and the loss of every step.

    Raises:
        TypeError, ValueError: as of :func:`landscape.interpolate`; if the training diverges, or if examples of the data
            cannot be put into one batch.

    Garipov et al. 2018 (arXiv 1802.10026).

    >>> model = torch.nn.Linear(1, 2, bias=False).double()  # of one example, whose outputs are w
    >>> ring = lambda y, _: (y.square().sum(dim=1) - 1).square().mean()  # (‖w‖² − 1)²
    >>> objective = Objective(model, ring, [(torch.ones(1, 1).double(), torch.zeros(1))])
    >>> ends = [objective.at(torch.tensor(w).double()) for w in ([1.0, 0.0], [0.0, 1.0])]
    >>> curve = bezier(*ends, training=BendTraining(epochs=200))
    >>> [round(path.barrier.height, 2) for path in (interpolate(*ends), curve)]
    [0.25, 0.0]
    """
    training = BendTraining() if training is None else training
    if not isinstance(training, BendTraining):
        raise TypeError(f"training must be a BendTraining; got {type(training).__name__}")
    pair = Pair(objective, other, batch_norm)
    eyes = Eyes(pair, held_out, score)
    bend, places, losses = _trained(pair, training, progress)
    return look_along(
        Quadratic(pair.a, bend, pair.b, {"training": training.settings()}),
        eyes,
        points=points,
        tolerance=tolerance,
        progress=progress,
        more={"bend": bend.cpu().numpy(), "trained_at": places, "training_losses": losses},
    )


def _trained(pair: Pair, training: BendTraining, progress: Progress) -> tuple[Tensor, Any, Any]:
    """The bend, and t and the loss of each step."""
    data = concatenate(pair.objective.work.batches)
    number = num_examples(data)
    lengths = _lengths(number, int(training.batch_size), least=1 if pair.batch_norm is None else pair.batch_norm.least)
    steps = training.epochs * len(lengths)
    bend = torch.lerp(pair.a, pair.b, 0.5).requires_grad_()
    optimizer = training.optimizer([bend])
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must make a torch optimizer of a list of tensors; it made {optimizer!r}")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(mixed(int(training.seed), _BENDS))
    places, losses = np.empty(steps), np.empty(steps)
    order = torch.empty(0, dtype=torch.int64, device="cpu")
    for step in range(steps):
        if not len(order):
            order = torch.randperm(number, generator=generator, device="cpu")
        length = lengths[step % len(lengths)]
        chosen, order = order[:length], order[length:]
        t = float(torch.rand((), generator=generator, dtype=torch.float64, device="cpu"))
        losses[step], slope = _loss_and_slope(
            pair, rows(data, chosen), Quadratic(pair.a, bend.detach(), pair.b, {}).at(t), t
        )
        if not (math.isfinite(losses[step]) and bool(torch.isfinite(slope).all())):
            raise ValueError(
                f"the training of the bend diverged: step {step + 1} of {steps} at t = {t:.3g} has the loss "
                f"{losses[step]:g}, or a gradient that is not finite. Lower the learning rate of {training.optimizer}."
            )
        places[step], bend.grad = t, 2 * t * (1 - t) * slope
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    return bend.detach(), places, losses


def _lengths(number: int, size: int, *, least: int) -> list[int]:
    """Examples of each mini-batch of an epoch; what is left is the last one, or part of that where it is too few.

    >>> _lengths(13, 5, least=2), _lengths(13, 4, least=2), _lengths(13, 4, least=1), _lengths(13, 99, least=2)
    ([5, 5, 3], [4, 4, 5], [4, 4, 4, 1], [13])
    """
    whole, rest = divmod(number, size)
    lengths = [size] * whole
    if rest >= least:
        return [*lengths, rest]
    return [*lengths[:-1], size + rest]


def _loss_and_slope(pair: Pair, batch: Batch, w: Tensor, t: float) -> tuple[float, Tensor]:
    """The loss of a mini-batch at w, and its gradient, ``(dim,)``."""
    definition = pair.objective.work.definition
    if pair.batch_norm is not None:
        definition = pair.batch_norm.in_training(definition, t, pair.ends)
    leaf = w.requires_grad_()
    with torch.enable_grad(), needing_variance("choose a batch_size of two or more"):
        loss = Term(definition, batch).loss(leaf)
        return loss.item(), slope_of(loss, leaf)
