"""The loss along a line and over a plane through the weights, and what else can be read off at the same points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.answers import LineSlice, PlaneSlice
from landscape.arguments import entries, reals
from landscape.directions import direction_of
from landscape.given import require_objective
from landscape.identity import name_of
from landscape.kept import Kept
from landscape.manifest import hash_of_settings, hash_of_tensor
from landscape.objective import Objective
from landscape.pairs import require_same_model
from landscape.planes import Axis, Direction, Plane
from landscape.points import Points
from landscape.progress import Progress, silent
from landscape.readings import COLUMNS, Reading
from landscape.results import Array
from landscape.sampling import Adaptive, Filled
from landscape.scores import Score, name_of_score, require_score
from landscape.walks import Walk

Coordinates = Sequence[float] | npt.NDArray[np.floating]
_TWO = ("first", "second")


def line_slice(
    objective: Objective,
    direction: Direction | Axis,
    *,
    coordinates: Coordinates,
    held_out: Objective | None = None,
    score: Score | None = None,
    sampling: Adaptive | None = None,
    kept: str | Path | None = None,
    progress: Progress = silent,
) -> LineSlice:
    """L(w + t d) for each coordinate t.

    Weights are put in place once for each point; loss and score, of the objective and of the held-out one, are read off
    in one pass. Processes that share the objective's work take a part of the points each, and all get the same result.

    Args:
        objective: gives w and L. Of a :meth:`Objective.sample`, losses have standard errors.
        direction: d, ``(dim,)``, or an axis with its marks.
        coordinates: the values of t, ``(n,)``, in any order; zero is the model itself.
        held_out: the objective of the same model over other data.
        score: ``score(outputs, targets)``, a mean over the batch, such as :data:`landscape.scores.accuracy`. Batches
            are weighted by ``score.denominator(outputs, targets)`` where it has that, else like the loss; the accuracy
            counts every target once that is not ignored, whatever class weights the loss has.
        sampling: which points are evaluated, the others being interpolated; all of them when left out.
        kept: a file in which finished points are kept every few seconds and when it ends in whatever way; the same
            call goes on from there, to the same numbers. It stays when the slice is complete, for whoever saves the
            result to remove.
        progress: called with the points done and their number.

    Returns:
        Losses and what else was asked for, each ``(n,)``. A loss that is not finite stays so.

    Raises:
        ValueError: if the direction has another length, is zero or not finite, a coordinate is not finite, the held-out
            objective is of another model or other weights, the score cannot be had, or ``kept`` holds another
            question.
        ProcessLostError: if another process has died or failed.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> data = [(torch.ones(1, 1).double(), model.weight.detach())]  # (w - w₀)²
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> line_slice(objective, torch.ones(1), coordinates=[-1.0, 0.0, 2.0]).losses.round(9).tolist()
    [1.0, 0.0, 4.0]
    """
    require_objective(objective)
    axis = direction if isinstance(direction, Axis) else Axis(direction)
    d = _direction(objective, axis.direction, name="direction")
    t = _coordinates(coordinates, name="coordinates")
    question = _Question(objective, held_out, score, sampling, "line_slice", (d,), {"coordinates": t})
    found = question.answered(t[:, None], kept=kept, progress=progress)
    return LineSlice(
        coordinates=t,
        length=_length(d),
        marks=axis.marks,
        mark_names=None if axis.marks is None else np.array(axis.mark_names, dtype=str),
        **question.fields(found, t.shape),
    )


def plane_slice(
    objective: Objective,
    directions: tuple[Direction, Direction] | Plane,
    *,
    x: Coordinates,
    y: Coordinates,
    held_out: Objective | None = None,
    score: Score | None = None,
    sampling: Adaptive | None = None,
    kept: str | Path | None = None,
    progress: Progress = silent,
) -> PlaneSlice:
    """L(w + x d₁ + y d₂) on the grid of all x and y.

    Args:
        objective: gives w and L.
        directions: d₁ and d₂, each ``(dim,)``, or a plane with its marks or its path; they are used as they are.
        x: coordinates along d₁, ``(nx,)``.
        y: coordinates along d₂, ``(ny,)``.
        held_out: as for :func:`line_slice`, like all that follows.
        score: read off as well.
        sampling: which points are evaluated.
        kept: a file in which finished points are kept.
        progress: called with the points done and their number.

    Returns:
        Losses and what else was asked for, each ``(ny, nx)``. A loss that is not finite stays so.

    Raises:
        ValueError: as :func:`line_slice`, and if the two directions are parallel.
        ProcessLostError: if another process has died or failed.
    """
    require_objective(objective)
    plane = directions if isinstance(directions, Plane) else Plane(directions)
    pair = entries(plane.directions, "directions")
    if len(pair) != 2:
        raise ValueError(f"directions must be the two that span the plane; got {len(pair)}")
    first, second = (_direction(objective, d, name=f"the {n} direction") for d, n in zip(pair, _TWO, strict=True))
    lengths = [_length(d) for d in (first, second)]
    cosine = float((_in_double(first) / lengths[0]) @ (_in_double(second) / lengths[1]))
    if 1 - abs(cosine) < 1e-6:
        raise ValueError(f"the two directions are parallel (cosine {cosine:.7f}); they span no plane")
    xs, ys = _coordinates(x, name="x"), _coordinates(y, name="y")
    question = _Question(objective, held_out, score, sampling, "plane_slice", (first, second), {"x": xs, "y": ys})
    positions = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    found = question.answered(positions, kept=kept, progress=progress)
    return PlaneSlice(
        x=xs,
        y=ys,
        lengths=np.array(lengths),
        cosine=cosine,
        marks=plane.marks,
        mark_names=None if plane.marks is None else np.array(plane.mark_names, dtype=str),
        path=plane.path,
        path_distances=plane.path_distances,
        explained=plane.explained,
        **question.fields(found, (len(ys), len(xs))),
    )


class _Question:
    """What is asked at the points of a grid, and where the answer comes from."""

    def __init__(
        self,
        objective: Objective,
        held_out: Objective | None,
        score: Score | None,
        sampling: Adaptive | None,
        name: str,
        directions: Sequence[Tensor],
        coordinates: dict[str, Array],
    ) -> None:
        if sampling is not None and not isinstance(sampling, Adaptive):
            raise TypeError(f"sampling must be None, for all points, or Adaptive(tolerance=...); got {sampling!r}")
        require_score(score)
        if held_out is not None:
            _require_same_weights(objective, held_out)
        self._objectives = {"": objective} | ({} if held_out is None else {"held_out_": held_out})
        self._directions, self._score, self._sampling = directions, score, sampling
        manifest = objective.manifest()
        hashes = [hash_of_tensor(d) for d in directions]  # they may depend on the weights: part of the subject
        manifest["subject"]["direction" if name == "line_slice" else "directions"] = (
            hashes if len(hashes) > 1 else hashes[0]
        )
        manifest["measurement"] = {"name": name, **{key: [float(c) for c in cs] for key, cs in coordinates.items()}}
        if score is not None:
            manifest["measurement"]["score"] = name_of(score)
        if held_out is not None:
            other = held_out.manifest()["objective"]
            always = ("data", "num_examples", "split")
            manifest["held_out"] = {
                key: value for key, value in other.items() if key in always or manifest["objective"].get(key) != value
            }
        self.manifest = manifest

    def answered(self, positions: Array, *, kept: str | Path | None, progress: Progress) -> Filled:
        """The columns at all points, ``(points, axes)``."""
        objective = self._objectives[""]
        readings = [Reading(each, self._score) for each in self._objectives.values()]
        points = Points(readings, objective.weights, self._directions, positions)
        self.manifest["machine"]["points"] = points.ways[0] if len(set(points.ways)) == 1 else points.ways
        question = self._decisive()
        walk = Walk(
            points.at,
            len(positions),
            len(readings) * len(COLUMNS),
            sharing=objective.work.sharing,
            question=hash_of_settings(question),
            kept=None if kept is None else Kept(kept, question),
            progress=progress,
            like=objective.weights,
        )
        if self._sampling is None:
            walk.visit(range(len(positions)))
            return Filled(walk.values, walk.finished, float("nan"))
        losses = [i * len(COLUMNS) for i in range(len(readings))]
        self.manifest["measurement"]["sampling"] = self._sampling.settings()
        return self._sampling.fill(walk, positions, losses=losses)

    def fields(self, found: Filled, shape: tuple[int, ...]) -> dict[str, Any]:
        """The fields of a slice that are read off at its points."""
        fields: dict[str, Any] = {"score": name_of_score(self._score), "manifest": self.manifest}
        for number, (prefix, objective) in enumerate(self._objectives.items()):
            asked = {"losses": True, "stderrs": objective.population is not None, "scores": self._score is not None}
            for place, name in enumerate(COLUMNS):
                if asked[name]:
                    fields[prefix + name] = found.values[:, number * len(COLUMNS) + place].reshape(shape)
        if self._sampling is not None:
            fields |= {"evaluated": found.evaluated.reshape(shape), "interpolation_error": found.error}
        return fields

    def _decisive(self) -> dict[str, Any]:
        """What decides the numbers at points: how they were sampled does not, nor which of several alike devices."""
        machine = dict(self.manifest["machine"])
        machine["device"] = self._objectives[""].weights.device.type
        return {key: value for key, value in self.manifest.items() if key not in ("machine", "subject")} | {
            "weights": dict(self.manifest["subject"]),
            "computed": machine,
        }


def _require_same_weights(objective: Objective, held_out: Objective) -> None:
    """A held-out objective must be of the same model at the same weights, batch-norm statistics included."""
    require_same_model(objective, held_out, "held_out")
    found = ""
    if not torch.equal(objective.weights, held_out.weights):
        found = f"the weights differ by up to {float((objective.weights - held_out.weights).abs().max()):.3g}"
    elif objective.manifest()["subject"]["fixed"] != held_out.manifest()["subject"]["fixed"]:
        found = "the running statistics of batch norm differ"
    if found:
        raise ValueError(
            f"held_out must be of the same model at the same weights; {found}. Make both objectives of one model, or "
            "use held_out.at(objective.weights)."
        )


def _direction(objective: Objective, direction: Direction, *, name: str) -> Tensor:
    d = direction_of(objective, direction, name=name)
    if not d.any():
        raise ValueError(f"{name} is zero: there is nothing to walk along")
    return d


def _length(d: Tensor) -> float:
    """‖d‖₂, in double precision: squares of single precision overflow, or vanish, long before the entries do."""
    return float(_in_double(d).norm())


def _in_double(d: Tensor) -> Tensor:
    return d.cpu().double()


def _coordinates(values: Coordinates, *, name: str) -> npt.NDArray[np.float64]:
    array = reals(values, name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)][0]}")
    return array
