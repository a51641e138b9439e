"""The questions put to every checkpoint of a study, fixed before the first answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

ESTIMATORS = {  # of the trace: what they are called in landscape, and what they do
    "krylov-aware": ("KrylovAware", "Krylov deflation and random sign vectors"),
    "xtrace": ("XTrace", "every random vector against the range of the others (XTrace)"),
    "hutch++": ("HutchPlusPlus", "a sketch of the range and random sign vectors (Hutch++)"),
    "hutchinson": ("Hutchinson", "random sign vectors (Hutchinson)"),
    "per-example": ("PerExample", "random signs of each example's own"),
    "exact-gauss-newton": (
        "ExactGaussNewton",
        "Gauss-Newton matrix without chance, random signs of each example's own for the rest",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings of all measurements.

    Attributes:
        split: the data that the landscape is that of: ``"train"``, ``"validation"`` or ``"test"``.
        parameters: the weights that it is a function of, by a pattern of names; all that were trained for ``"*"``.
        eigenvalues: how many of the largest.
        tol: relative tolerance on their residuals.
        trace_probes: products for the trace.
        estimator: how they are spent, one of ``ESTIMATORS``.
        density_steps: Lanczos steps of each probe of the spectral density.
        density_probes: its probes.
        rho: radius of m-sharpness and of worst-case sharpness (L2 norm over all weights).
        microbatch_size: examples per shard of both.
        noise: standard deviation, in each weight, of the noise of average-case sharpness.
        draws: pairs of draws of that noise.
        reach: slices go from -reach to +reach along filter-normalised directions.
        line_points: points of a line slice.
        plane_points: points along each axis of a plane slice.
        tolerance: points of slices are interpolated up to this share of the range of losses; 0: none are.
        seed: of probes, starting vectors and directions.
        other_data: whether the data of a task may be others than the run was trained on; see :mod:`msam.trained_on`.
    """

    split: Literal["train", "validation", "test"] = "train"
    parameters: str = "*"
    eigenvalues: int = 5
    tol: float = 1e-3
    trace_probes: int = 100
    estimator: str = "krylov-aware"
    density_steps: int = 60
    density_probes: int = 10
    rho: float = 0.05
    microbatch_size: int = 32
    noise: float = 0.01
    draws: int = 50
    reach: float = 1.0
    line_points: int = 51
    plane_points: int = 25
    tolerance: float = 0.0
    seed: int = 0
    other_data: bool = False

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation", "test"):
            raise ValueError(f"split must be 'train', 'validation' or 'test'; got {self.split!r}")
        if not self.parameters:
            raise ValueError("parameters must be a pattern of names, such as 'head.*'; got ''")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be {_either(ESTIMATORS)}; got {self.estimator!r}")
        if not isinstance(self.other_data, bool):
            raise ValueError(f"other_data must be True or False; got {self.other_data!r}")
        for name in ("eigenvalues", "density_steps", "density_probes", "microbatch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("trace_probes", "line_points", "plane_points", "draws"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be an integer from 0 on; got {self.seed}")
        for name in ("tol", "rho", "reach", "noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive, finite number; got {getattr(self, name)}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be a share of the range, from 0 to below 1; got {self.tolerance}")


def _either(names: Iterable[str]) -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"
