"""What lies between two checkpoints: the straight line, that after alignment, and a trained curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analyses.answer import Answer
from analyses.subject import Subject
from landscape.alignment import align
from landscape.answers import PathLosses
from landscape.batch_norm import Frozen, Recomputed, Statistics
from landscape.batches import num_examples
from landscape.chunks import merged
from landscape.curves import BendTraining, bezier
from landscape.identity import name_of
from landscape.objective import Objective
from landscape.paths import interpolate
from landscape.progress import Progress
from msam.run import Run
from msam.tasks.registry import complete_settings

TOLERANCE = 1e-3  # on barriers, of the span of what rises
RESTARTS = 4  # of the search for an alignment


@dataclass(frozen=True, kw_only=True)
class PathPlan:
    """What is asked about two checkpoints.

    Attributes:
        align: whether the straight line after alignment is, too.
        bezier: whether a curve between the checkpoints as they are is, too.
        frozen: whether batch norm keeps interpolated statistics, and does not recompute them at every point.
        points: evenly spaced ones.
    """

    align: bool = False
    bezier: bool = False
    frozen: bool = False
    points: int = 25


def require_pair(first: Run, second: Run) -> None:
    """Two runs must be of one task, and name two checkpoints.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: naming what differs, or the checkpoint that is named twice.
    """
    if first.checkpoint.resolve() == second.checkpoint.resolve():
        raise ValueError(f"{first.checkpoint} is named twice; a path leads from one checkpoint to another")
    given = [
        {"task": config.task, "trainable": config.trainable}
        | complete_settings(config.task, config.settings)
        | {"augment": None}  # in training only
        for config in (first.config, second.config)
    ]
    unlike = [
        f"{name} ({given[0].get(name)} and {given[1].get(name)})"
        for name in dict.fromkeys([*given[0], *given[1]])
        if given[0].get(name) != given[1].get(name)
    ]
    if unlike:
        raise ValueError(
            f"{first.name} and {second.name} are no two checkpoints of one network on one task; they differ in "
            f"{', '.join(unlike)}. Name runs with the same task, model and data."
        )


def paths_between(first: Subject, second: Subject, plan: PathPlan) -> dict[str, Answer[PathLosses]]:
    """The answers to a plan, by name: ``straight``, ``aligned``, ``bezier``; kept in the first run.

    Losses are those of the training data, with the test data held out, and accuracies where the task has classes.

    Args:
        first: the checkpoint at t = 0, under a protocol that measures the training data.
        second: that at t = 1.
        plan: what is asked.

    Raises:
        ValueError: if both have the same weights, or the model cannot be aligned.
    """
    a, b = (subject.over("train") for subject in (first, second))
    if a.weights.equal(b.weights):
        raise ValueError(
            f"{first.run.checkpoint} and {second.run.checkpoint} hold the same weights; there is nothing between them"
        )
    first.require_same_rest(second)
    batch_norm: Statistics = Frozen() if plan.frozen else Recomputed(with_pairs(a))
    held_out = first.over("test")
    seed = first.protocol.seed
    asked = {
        "other": b.manifest()["subject"],
        "points": plan.points,
        "tolerance": TOLERANCE,
        "batch_norm": batch_norm.words(),
        "held_out": held_out.manifest()["objective"]["data"],
        "score": name_of(first.score),
    }

    how: dict[str, Any] = {
        "points": plan.points,
        "tolerance": TOLERANCE,
        "batch_norm": batch_norm,
        "held_out": held_out,
        "score": first.score,
    }

    def answer(more: dict[str, Any], ask: Callable[[Progress], PathLosses]) -> Answer[PathLosses]:
        return first.remembered(PathLosses, "path", asked | more, ask)

    def straight(other: Objective, progress: Progress) -> PathLosses:
        return interpolate(a, other, **how, progress=progress)

    def aligned(progress: Progress) -> PathLosses:
        found = align(a, b, restarts=RESTARTS, seed=seed)
        result = straight(found.objective, progress)
        entries = ("distance_before", "distance_after", "discrepancy", "sweeps", "start")
        alignment = {"restarts": RESTARTS, "seed": seed} | {name: getattr(found, name) for name in entries}
        subject = result.manifest["subject"] | {"alignment": alignment}
        curve = "straight line after alignment"
        return dataclasses.replace(result, curve=curve, manifest={**result.manifest, "subject": subject})

    def curved(progress: Progress) -> PathLosses:
        return bezier(a, b, training=training, **how, progress=progress)

    answers = {"straight": answer({"curve": "straight"}, lambda progress: straight(b, progress))}
    if plan.align:
        answers["aligned"] = answer({"curve": "aligned", "restarts": RESTARTS, "seed": seed}, aligned)
    if plan.bezier:
        training = BendTraining(seed=seed)
        answers["bezier"] = answer({"curve": "bezier", **training.settings()}, curved)
    return answers


def with_pairs(objective: Objective) -> Objective:
    """The same, with a last batch of one example put to the one before it: one alone may have no variance."""
    batches = list(objective.batches)
    if len(batches) < 2 or num_examples(batches[-1]) > 1:
        return objective
    return objective.part([*batches[:-2], *merged(batches[-2:])])
