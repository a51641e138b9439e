"""Where a slice looks: along which directions through a checkpoint, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.curvature import eigenvalues
from analyses.subject import Subject
from landscape.directions import eigenvector_axis, eigenvector_plane, filter_normalized, plane_through, towards
from landscape.extents import coordinates_around, grid_around
from landscape.manifest import hash_of_tensor
from landscape.planes import Axis, Direction, Plane
from landscape.results import Array
from landscape.trajectories import trajectory_plane
from msam.run import Run

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

    def question(self, subject: Subject) -> dict[str, Any]:
        """What decides the slice, for its name."""
        p = subject.protocol
        if self.through:
            return {"through": [hash_of_tensor(subject.weights_at(run)) for run in self._others]}
        if self.along == TRAJECTORY:
            return {"along": TRAJECTORY, "path": [hash_of_tensor(subject.weights_at(run)) for run in _path(subject)]}
        if self.along == EIGENVECTORS:
            return {"along": EIGENVECTORS, "reach": p.reach, "pairs": eigenvalues(subject).path.stem}
        return {"reach": p.reach, "seed": p.seed}

    def line(self, subject: Subject) -> tuple[Direction | Axis, Array]:
        """The direction and the coordinates along it."""
        p, objective = subject.protocol, subject.objective
        if self.through:
            (other,) = self._others
            axis = towards(objective, subject.weights_at(other), name=other.name, own_name=subject.run.name)
            return axis, coordinates_around(axis, points=p.line_points)
        reach = np.linspace(-p.reach, p.reach, p.line_points)
        if self.along == EIGENVECTORS:
            return eigenvector_axis(objective, eigenvalues(subject).result), reach
        return filter_normalized(objective, seed=p.seed), reach

    def plane(self, subject: Subject) -> tuple[tuple[Direction, Direction] | Plane, Array, Array]:
        """The two directions, and the coordinates along each."""
        p, objective = subject.protocol, subject.objective
        if self.through:
            first, second = self._others
            names = (subject.run.name, first.name, second.name)
            plane = plane_through(objective, subject.weights_at(first), subject.weights_at(second), names=names)
            return plane, *grid_around(plane, points=p.plane_points)
        if self.along == TRAJECTORY:
            runs = _path(subject)
            weights = [subject.weights_at(run) for run in runs]
            plane = trajectory_plane(objective, weights, names=[str(run.checkpoint) for run in runs])
            return plane, *grid_around(plane, points=p.plane_points)
        reach = np.linspace(-p.reach, p.reach, p.plane_points)
        if self.along == EIGENVECTORS:
            return eigenvector_plane(objective, eigenvalues(subject).result), reach, reach
        along = filter_normalized(objective, seed=p.seed)
        return (along, filter_normalized(objective, seed=p.seed + 1, orthogonal_to=along)), reach, reach

    @property
    def _others(self) -> list[Run]:
        return [Run.open(path) for path in self.through]


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
