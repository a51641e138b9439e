"""Two checkpoints of one model on one data set, which is what a path can lead between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.batch_norm import Buffers, Statistics, of_layers
from landscape.given import require_objective
from landscape.manifest import differences
from landscape.objective import Objective

_MOST_NAMED = 4  # differences in one sentence


class Pair:
    """Two checkpoints a and b, and what batch norm normalises by between them.

    Args:
        objective: of the checkpoint a.
        other: of the checkpoint b, the same loss over the same data.
        batch_norm: what batch norm normalises by; None where the model has none.

    Attributes:
        a: weights, ``(dim,)``.
        b: weights, ``(dim,)``.

    Raises:
        TypeError: if one of them is no objective, or ``batch_norm`` no choice of statistics.
        ValueError: if they are of different models, losses or data, if weights are not finite, or if the model has
            batch norm and nothing is said of its statistics.
    """

    def __init__(self, objective: Objective, other: Objective, batch_norm: Statistics | None) -> None:
        require_same_model(objective, other, "the second checkpoint")
        found = differences(*({"objective": of.manifest()["objective"]} for of in (objective, other)))
        if found:
            raise ValueError(
                f"the two checkpoints are not measured alike; they differ in {'; '.join(found)}. "
                "Make both objectives with the same loss and the same data."
            )
        self.objective = objective
        self.a, self.b = objective.weights, other.weights
        for place, w in (("first", self.a), ("second", self.b)):
            if not torch.isfinite(w).all():
                raise ValueError(f"the weights of the {place} checkpoint are not all finite; no path leads there")
        self.ends: tuple[Buffers, Buffers] = (of_layers(objective.model), of_layers(other.model))
        if batch_norm is None and self.ends[0]:
            raise ValueError(
                f"the model has batch norm ({', '.join(list(self.ends[0])[:2])}); say what it normalises by along the "
                "path: batch_norm=Recomputed(training), an objective over the training data, or batch_norm=Frozen()"
            )
        if batch_norm is not None and not isinstance(batch_norm, Statistics):
            raise TypeError(f"batch_norm must be Recomputed(training), Frozen() or None; got {batch_norm!r}")
        self.batch_norm = batch_norm if self.ends[0] else None
        training = getattr(self.batch_norm, "training", None)
        if isinstance(training, Objective):
            require_same_model(objective, training, "the model of batch_norm=Recomputed(...)")

    @property
    def distance(self) -> float:
        """‖b − a‖₂."""
        return float((self.b - self.a).norm())

    def statistics(self, w: Tensor, t: float) -> Buffers:
        """What batch norm normalises by at w, by the names of buffers; empty without batch norm."""
        return {} if self.batch_norm is None else self.batch_norm.at(w, t, self.ends)


def require_same_model(objective: Objective, other: object, name: str) -> None:
    """Another objective must be of the same model, in all but its weights and batch-norm statistics.

    Raises:
        TypeError: if it is no objective.
        ValueError: naming what differs.
    """
    require_objective(objective)
    if not isinstance(other, Objective):
        raise TypeError(
            f"{name} must be given as an Objective; got {type(other).__name__}. "
            "For weights alone pass objective.at(weights)."
        )
    shapes = [dict(zip(of.space.names, of.space.shapes, strict=True)) for of in (objective, other)]
    unlike = [
        f"{key} ({_shape(shapes[0].get(key))} and {_shape(shapes[1].get(key))})"
        for key in dict.fromkeys([*shapes[0], *shapes[1]])
        if shapes[0].get(key) != shapes[1].get(key)
    ]
    if unlike:
        raise ValueError(f"{name} is of another architecture; parameters differ: {_few(unlike)}")
    if objective.work.definition.settings()["architecture"] != other.work.definition.settings()["architecture"]:
        kinds = zip(objective.model.named_modules(), other.model.named_modules(), strict=False)
        changed = [
            f"{place or 'the model'} ({_line(one)} and {_line(two)})"
            for (place, one), (_, two) in kinds
            if not list(one.children()) and repr(one) != repr(two)
        ]
        raise ValueError(f"{name} is of another architecture; layers differ: {_few(changed or ['in their order'])}")
    if (other.weights.dtype, other.weights.device) != (objective.weights.dtype, objective.weights.device):
        raise ValueError(
            f"{name} has weights of {other.weights.dtype} on {other.weights.device}, and not of "
            f"{objective.weights.dtype} on {objective.weights.device}; use .to(...) on the model"
        )
    moved = _fixed_that_differ(objective, other)
    if moved:
        raise ValueError(
            f"{name} differs in numbers that are no part of w and lie on no path: {_few(moved)}. "
            "Make them trainable, select them, or set them equal."
        )


def _fixed_that_differ(objective: Objective, other: Objective) -> list[str]:
    """Parameters that are left out of w, and buffers besides the statistics of batch norm, that are not equal."""
    models = (objective.model, other.model)
    free = {*objective.space.names, *of_layers(models[0])}
    first, second = ({**dict(model.named_parameters()), **dict(model.named_buffers())} for model in models)
    return [
        name
        for name, value in first.items()
        if name not in free
        and not name.endswith("num_batches_tracked")
        and (name not in second or not torch.equal(value, second[name]))
    ]


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _line(module: torch.nn.Module) -> str:
    return " ".join(repr(module).split())


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
