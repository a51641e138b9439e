"""What a trace is held against in a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import stats

from landscape.answers import TraceEstimate
from landscape.answers.certificate import OPEN
from landscape.estimators import Estimator, Hutchinson, HutchPlusPlus, KrylovAware
from landscape.gauss_newton import ExactGaussNewton
from landscape.operators import CurvatureOperator
from landscape.per_example import PerExample
from landscape.reference import pyhessian_trace, why_not_pyhessian
from landscape.soundness import Finding, judged
from landscape.traces import trace
from landscape.xtrace import XTrace

ESTIMATORS: dict[str, Estimator] = {
    type(each).__name__: each for each in (KrylovAware(), XTrace(), HutchPlusPlus(), Hutchinson(), PerExample())
}
RARE = 1e-4  # probability at which a right answer is called wrong by a comparison of random estimates


@dataclass
class ChecksOfTrace:
    """The checks of a trace.

    Attributes:
        result: the estimate.
        operator: the matrix that it is said to be of.
        seed: of random vectors.
    """

    result: TraceEstimate
    operator: CurvatureOperator
    seed: int

    @cached_property
    def repeated(self) -> TraceEstimate:
        """The trace by the same estimator, with as many other probes."""
        asked = self.result.manifest["measurement"]
        num_probes = max(2, int(asked.get("num_probes", len(self.result.samples))))
        estimator = _estimator_of(asked)
        num_probes = max(estimator.minimum, num_probes)
        return trace(
            self.operator, num_probes, estimator=estimator, seed=int(asked.get("seed", 0)) + 1 + abs(self.seed)
        )

    def looks(self) -> dict[str, Callable[[], Finding]]:
        """Each check by its name."""
        return {
            "same question with other probes, in standard errors": self.distance,
            "standard error, other probes' over this": self.spread,
            "PyHessian, in standard errors": self.pyhessian,
        }

    def distance(self) -> Finding:
        """How far the repetition is, in standard errors; Student's t at one in ten thousand is allowed."""
        other = self.repeated
        freedom = min(len(self.result.samples), len(other.samples)) - 1
        tolerance = float(stats.t.isf(RARE / 2, max(1, freedom)))
        said = f"{other.estimate:.6g} ± {other.stderr:.2g} with {len(other.samples)} other probes"
        return judged(self._apart(other), tolerance, said)

    def spread(self) -> Finding:
        """The standard error of the repetition over the reported one."""
        other = self.repeated
        freedom = [max(1, len(samples) - 1) for samples in (other.samples, self.result.samples)]
        tolerance = 2 * math.sqrt(float(stats.f.isf(RARE, *freedom)))  # twice: samples are not quite normal
        rounding = self._rounding(other)
        value = max(other.stderr, rounding) / max(self.result.stderr, rounding) if rounding else 1.0
        return judged(value, tolerance)

    def pyhessian(self) -> Finding:
        """What PyHessian says, which decides nothing: its estimator stops by chance."""
        reason = why_not_pyhessian(self.operator)
        if reason:
            return Finding(math.nan, math.nan, OPEN, reason)
        try:
            theirs = pyhessian_trace(self.operator.objective, seed=self.seed)
        except (RuntimeError, MemoryError) as error:
            return Finding(math.nan, math.nan, OPEN, f"it failed: {str(error).splitlines()[0]}")
        cost = f"{len(theirs.samples)} products in {theirs.manifest['machine']['seconds']:.3g} s"
        return Finding(
            self._apart(theirs), math.nan, OPEN, f"{cost}; {theirs.estimate:.6g} ± {theirs.stderr:.2g}; reported only"
        )

    def _apart(self, other: TraceEstimate) -> float:
        """The difference of two estimates in standard errors of it."""
        error = max(math.hypot(self.result.stderr, other.stderr), self._rounding(other))
        return abs(self.result.estimate - other.estimate) / error if error else 0.0

    def _rounding(self, other: TraceEstimate) -> float:
        size = max(float(np.abs(samples).max()) for samples in (self.result.samples, other.samples))
        return 100 * float(torch.finfo(self.operator.weights.dtype).eps) * size


def _estimator_of(asked: Mapping[str, Any]) -> Estimator:
    """The estimator that a manifest names."""
    if asked.get("estimator") == ExactGaussNewton.__name__:
        return ExactGaussNewton(ESTIMATORS.get(str(asked.get("rest"))))
    return ESTIMATORS.get(str(asked.get("estimator")), Hutchinson())
