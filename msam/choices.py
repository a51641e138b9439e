"""What a config chooses by name, and the objects that the names stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from landscape.balls import L2, Ball, Linf
from landscape.centralized import CentralizedAscent
from landscape.chance import RandomPerturbation
from landscape.friendly import FriendlyAscent
from landscape.perturbations import AdaptiveAscent, Ascent, GradientAscent, Perturbation
from landscape.several_steps import SeveralSteps
from landscape.unnormalised import UnnormalisedAscent
from msam.batchnorm import BatchNormPolicy, BatchStatistics, RunningStatistics, ShardStatistics
from msam.descents import CentralizedDescent, Descent
from msam.dropout import DropoutPolicy, FreshMasks, SameMasks
from msam.execution import Execution, OneByOne
from msam.fastest import Fastest
from msam.layerwise import Layerwise
from msam.selections import all_but_norm_layers, matching, norm_layers
from msam.universal import DeterminantDescent, FrobeniusDescent, TraceDescent
from msam.vectorised import Vectorised

Curve = Callable[[float], float]

BALLS: dict[str, Callable[[], Ball]] = {"l2": L2, "linf": Linf}
IN_A_BALL: dict[str, Callable[[float, Ball, int], Ascent]] = {
    "sam": lambda rho, ball, _: GradientAscent(rho, ball=ball),
    "asam": lambda rho, ball, _: AdaptiveAscent(rho, ball=ball),
    "fsam": lambda rho, ball, _: FriendlyAscent(rho, ball=ball),
    "random": lambda rho, ball, seed: RandomPerturbation(rho, ball=ball, seed=seed),
}
OF_ITS_OWN: dict[str, Callable[[float, int], Perturbation | Descent]] = {
    "gcsam": lambda rho, _: CentralizedDescent(CentralizedAscent(rho)),
    "sam-unnormalised": lambda rho, _: UnnormalisedAscent(rho),
    "usam-trace": lambda rho, seed: TraceDescent(rho, seed=seed),
    "usam-frobenius": lambda rho, seed: FrobeniusDescent(rho, seed=seed),
    "usam-determinant": lambda rho, seed: DeterminantDescent(rho, seed=seed),
}
PERTURBATIONS = ("none", *IN_A_BALL, *OF_ITS_OWN)
METHODS = {
    "sam": "SAM",
    "asam": "ASAM",
    "random": "random perturbation",
    "fsam": "Friendly SAM",
    "gcsam": "GCSAM",
    "sam-unnormalised": "unnormalised SAM",
    "usam-trace": "USAM (trace)",
    "usam-frobenius": "USAM (Frobenius)",
    "usam-determinant": "USAM (determinant)",
}
SCHEDULES: dict[str, Curve] = {
    "constant": lambda _: 1.0,
    "cosine": lambda elapsed: 0.5 * (1 + math.cos(math.pi * elapsed)),
}
RHO_SCHEDULES: dict[str, Curve] = SCHEDULES | {
    "rising": lambda elapsed: 0.5 * (1 - math.cos(math.pi * elapsed)),
}
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}
EXECUTIONS: dict[str, Callable[[OneByOne], Execution]] = {
    "one-by-one": lambda one_by_one: one_by_one,
    "layerwise": lambda one_by_one: Layerwise(otherwise=one_by_one),
    "vectorised": lambda one_by_one: Vectorised(otherwise=one_by_one),
    "fastest": lambda one_by_one: Fastest(
        (one_by_one, Layerwise(otherwise=one_by_one), Vectorised(otherwise=one_by_one))
    ),
}
BATCH_NORMS: dict[str, Callable[[], BatchNormPolicy]] = {
    "shard": ShardStatistics,
    "batch": BatchStatistics,
    "running": RunningStatistics,
}
DROPOUTS: dict[str, Callable[[], DropoutPolicy]] = {"same": SameMasks, "fresh": FreshMasks}
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def perturbation_of(name: str, rho: float, *, ball: str, steps: int, seed: int) -> Perturbation | Descent | None:
    """The perturbation of that name, or the descent; None for ``"none"``.

    Raises:
        ValueError: if it is defined in no ball but its own, or for one step of ascent alone.
    """
    if name == "none":
        return None
    if name in OF_ITS_OWN:
        _require(ball == "l2" and steps == 1, f"{name} has no other ball and takes one step of ascent")
        return OF_ITS_OWN[name](rho, seed)
    perturbation = IN_A_BALL[name](rho, BALLS[ball](), seed)
    if steps == 1:
        return perturbation
    _require(perturbation.needs_gradient, f"{name} does not ascend, so that it has no steps of ascent")
    return SeveralSteps(perturbation, steps=steps)


def perturbed_of(model: nn.Module, which: str) -> Sequence[Tensor] | None:
    """The parameters that ``"all"``, ``"norm"``, ``"all-but-norm"`` or a pattern of names stands for.

    Raises:
        ValueError: if the model has none.
    """
    if which == "all":
        return None
    chosen = {"norm": norm_layers, "all-but-norm": all_but_norm_layers}.get(which)
    return matching(model, which) if chosen is None else chosen(model)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)
