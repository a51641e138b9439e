"""Where a slice looks: along which directions through a checkpoint, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analyses.curvature import eigenvalues
from analyses.subject import Subject
from landscape.directions import eigenvector_axis, eigenvector_plane, filter_normalized, plane_through, towards
from landscape.extents import coordinates_around, grid_around
from landscape.manifest import hash_of_tensor
from landscape.parameters import Vector
from landscape.planes import Axis, Direction, Plane
from landscape.results import Array
from landscape.trajectories import trajectory_plane
from msam.run import Run

Question = dict[str, Any]
RANDOM, EIGENVECTORS, TRAJECTORY = KINDS = ("random", "eigenvectors", "trajectory")


@dataclass(frozen=True, kw_only=True)
class View:
    """The directions of a slice.

    Attributes:
        along: random filter-normalised directions, the eigenvectors of the largest Hessian eigenvalues, or the plane
            in which the checkpoints of the run moved most.
        through: other checkpoints that the line, or the plane, goes through instead: one, or two.
        dims: 1 for a line, 2 for a plane.

    Raises:
        ValueError: if these do not go together.
    """

    along: str = RANDOM
    through: Sequence[Path] = ()
    dims: int = 1

    def __post_init__(self) -> None:
        if self.along not in KINDS:
            raise ValueError(f"along must be one of {', '.join(KINDS)}; got {self.along!r}")
        if self.through and self.along != RANDOM:
            raise ValueError(f"a slice goes along {self.along}, or through other checkpoints; choose one of them")
        if self.through and len(self.through) != self.dims:
            what = "a line goes through one other checkpoint" if self.dims == 1 else "a plane goes through two others"
            raise ValueError(f"{what}; got {len(self.through)}")
        if self.along == TRAJECTORY and self.dims == 1:
            raise ValueError("a trajectory is seen in a plane; ask for two dimensions")

    def line(self, subject: Subject) -> tuple[Question, Direction | Axis, Array]:
        """What decides the slice, for its name; the direction, and the coordinates along it."""
        p, objective = subject.protocol, subject.objective
        if self.through:
            (other,) = self._others(subject)
            axis = towards(objective, other.weights, name=other.name, own_name=subject.run.name)
            return {"through": [other.hash]}, axis, coordinates_around(axis, points=p.line_points)
        question, reach = self._within(subject), np.linspace(-p.reach, p.reach, p.line_points)
        if self.along == EIGENVECTORS:
            return question, eigenvector_axis(objective, eigenvalues(subject).result), reach
        return question, filter_normalized(objective, seed=p.seed), reach

    def plane(self, subject: Subject) -> tuple[Question, tuple[Direction, Direction] | Plane, Array, Array]:
        """What decides the slice, for its name; the two directions, and the coordinates along each."""
        p, objective = subject.protocol, subject.objective
        if self.through:
            first, second = others = self._others(subject)
            names = (subject.run.name, first.name, second.name)
            plane = plane_through(objective, first.weights, second.weights, names=names)
            return {"through": [other.hash for other in others]}, plane, *grid_around(plane, points=p.plane_points)
        if self.along == TRAJECTORY:
            path = [_Other(str(run.checkpoint), subject.weights_at(run)) for run in _path(subject)]
            names, weights = zip(*path, strict=True)
            plane = trajectory_plane(objective, weights, names=names)
            question = {"along": TRAJECTORY, "path": [other.hash for other in path]}
            return question, plane, *grid_around(plane, points=p.plane_points)
        question, reach = self._within(subject), np.linspace(-p.reach, p.reach, p.plane_points)
        if self.along == EIGENVECTORS:
            return question, eigenvector_plane(objective, eigenvalues(subject).result), reach, reach
        along = filter_normalized(objective, seed=p.seed)
        return question, (along, filter_normalized(objective, seed=p.seed + 1, orthogonal_to=along)), reach, reach

    def _within(self, subject: Subject) -> Question:
        """What decides a slice within reach of the checkpoint, whatever its dimensions."""
        p = subject.protocol
        if self.along == EIGENVECTORS:
            return {"along": EIGENVECTORS, "reach": p.reach, "pairs": eigenvalues(subject).path.stem}
        return {"reach": p.reach, "seed": p.seed}

    def _others(self, subject: Subject) -> list[_Other]:
        """The checkpoints that the slice goes through, each read once, and named where not as it was."""
        own, found = subject.run.name, []
        for run in map(Run.open, self.through):
            weights, is_itself = subject.other(run)
            found.append(_Other(run.name if is_itself else f"{run.name}, batch norm of {own}", weights))
        return found


class _Other(NamedTuple):
    """Another checkpoint: what it is called, and its weights, ``(dim,)``."""

    name: str
    weights: Vector

    @property
    def hash(self) -> str:
        return hash_of_tensor(self.weights)


def _path(subject: Subject) -> list[Run]:
    """The checkpoints of the subject's run, up to its own.

    Raises:
        ValueError: if there are fewer than three, or the weights come from elsewhere.
    """
    _ = subject.run.training  # which says so where nothing is known of it
    own = subject.run.checkpoint.resolve()
    known = subject.run.checkpoints()  # in the order of training, which names of more than 9,999 epochs are not in
    found = known[: [path.resolve() for path in known].index(own) + 1]
    if len(found) < 3:
        raise ValueError(
            f"the trajectory of {subject.run.path} needs at least three checkpoints and has {len(found)}; train it "
            "with --checkpoint-every 1, or another number that leaves three"
        )
    return [Run.open(path) for path in found]
