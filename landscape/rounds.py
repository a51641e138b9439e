"""How many products an estimate takes: a budget, a wanted precision, or a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

from landscape.arguments import integer, real, seed_of
from landscape.clock import Clock
from landscape.estimators import Coordinates, Estimation, Estimator, Samples, Source
from landscape.measures import Measure
from landscape.operators import CurvatureOperator, require_operator
from landscape.processes import attempted
from landscape.progress import Progress
from landscape.results import Array

FIRST = 12  # products before the precision is looked at
FIRST_IN_TIME = 4  # products before the clock is looked at
ROUNDING = 4  # units in the last place that a sum of products is off by
TICK = 1e-9  # seconds, where a clock has not moved
CONFIDENCE = 0.95  # that the standard error is as small as was asked for


@dataclass(frozen=True)
class Estimates:
    """Estimates of the traces of some forms, and of their sum.

    Attributes:
        values: ``(forms,)``.
        stderrs: their standard errors, ``(forms,)``.
        stderr: of the sum.
        samples: of the sum, ``(k,)``.
        num_products: that were spent.
        estimator: the name of the way they were found.
        stopped: ``"budget"``, ``"precision"``, ``"time"`` or ``"exact"``.
        settings: what was asked for, for a manifest.
        words: how products were computed.
    """

    values: Array
    stderrs: Array
    stderr: float
    samples: Array
    num_products: int
    estimator: str
    stopped: str
    settings: dict[str, Any]
    words: str

    def manifest(self, operator: CurvatureOperator, name: str) -> dict[str, Any]:
        """Of the measurement of this name."""
        manifest = operator.manifest()
        manifest["machine"] = manifest.get("machine", {}) | {"products": self.words}
        return manifest | {"measurement": {"name": name} | self.settings}


def require_budget(estimator: Estimator, num_probes: int) -> int:
    """A number of products that leaves a standard error.

    Raises:
        TypeError: if either is of another kind.
        ValueError: if it is too small.
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(f"estimator must be an estimator such as KrylovAware() or Hutchinson(); got {estimator!r}")
    num_probes = integer(num_probes, "num_probes")
    if num_probes < estimator.minimum:
        raise ValueError(
            f"num_probes must be at least {estimator.minimum}, to give {type(estimator).__name__} a standard error; "
            f"got {num_probes}"
        )
    return num_probes


def estimated(
    operator: CurvatureOperator,
    measure: Measure,
    *,
    estimator: Estimator,
    num_probes: int,
    rtol: float | None,
    max_seconds: float | None,
    seed: int,
    progress: Progress,
) -> Estimates:
    """Traces of forms in an operator, until one of the limits is met.

    A budget that suffices for all coordinate vectors gives the exact answer with them. Otherwise, where a precision is
    asked for, it is looked at after 12 products, 24, 48 and so on: seldom, and never with few samples. The standard
    error of few samples is itself uncertain, and stopping when it happens to be small would favour those that are too
    small; so it must be small enough at the upper end of its 95 % confidence interval. Where a time is given, a round
    starts only if the last one's pace lets it end in time.

    Args:
        operator: the symmetric matrix.
        measure: the forms.
        estimator: the way.
        num_probes: the most products.
        rtol: standard error of the sum to stop at, relative to the sum.
        max_seconds: to stop at.
        seed: of the probes.
        progress: called with the products done and the budget.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one makes no sense.
    """
    require_operator(operator)
    num_probes, seed = require_budget(estimator, num_probes), seed_of(seed)
    rtol, max_seconds = _limit(rtol, "rtol"), _limit(max_seconds, "max_seconds")
    settings = estimator.settings() | {"num_probes": num_probes, "seed": seed}
    settings |= {name: limit for name, limit in (("rtol", rtol), ("max_seconds", max_seconds)) if limit is not None}
    total, sharing, like = min(num_probes, operator.dim), operator.objective.work.sharing, operator.weights
    clock = Clock(sharing, like=like, limit=math.inf if max_seconds is None else max_seconds)

    def precise(samples: Samples, rtol: float) -> bool:
        return bool(sharing.decided(float(_precise(samples, rtol)), like=like))

    def counted(products: int) -> None:
        done.append(products)
        progress(sum(done), total)

    def found() -> Estimates:
        done.clear()
        generator = torch.Generator().manual_seed(seed)
        source = Source(operator.apply, like, generator, sharing.led, counted, operator, total)
        least = max(FIRST_IN_TIME, estimator.minimum)
        has_all = num_probes >= operator.dim and (max_seconds is None or operator.dim <= least)
        estimation = Coordinates(source, measure) if has_all else estimator.begin(source, measure)
        if estimation.is_exact:
            estimation.spend(num_probes)
            return _estimates(estimation, "exact", settings)
        target = total  # beyond dim products there is no direction left that a basis could take
        if max_seconds is not None:
            target = least
        elif rtol is not None:
            target = max(FIRST, estimator.minimum)
        while True:
            estimation.spend(min(target, total))
            if target >= total:
                return _estimates(estimation, "budget", settings)
            if rtol is not None and target >= FIRST and precise(estimation.samples(), rtol):
                return _estimates(estimation, "precision", settings)
            more = target
            if max_seconds is not None:
                spent = clock.seconds
                more = min(more, math.floor((clock.limit - spent) / max(spent, TICK) * estimation.products))
                if more < 2:
                    return _estimates(estimation, "time", settings)
            target += more

    done: list[int] = []
    return attempted(sharing, found)


def _limit(value: float | None, name: str) -> float | None:
    if value is not None and not real(value, name) > 0:
        raise ValueError(f"{name} must be positive, or None for no such limit; got {value}")
    return None if value is None else real(value, name)


def _precise(samples: Samples, rtol: float) -> bool:
    degrees = samples.values.shape[1] - 1
    most = _stderr(samples.without.sum(dim=0)) * math.sqrt(degrees / chdtri(degrees, CONFIDENCE))
    return bool(most <= rtol * samples.values.sum(dim=0).mean().abs())


def _stderr(without: Tensor) -> Tensor:
    """The jackknife's: for independent samples the standard deviation over the root of their number."""
    return without.std(dim=-1, correction=0) * math.sqrt(without.shape[-1] - 1)


def _estimates(estimation: Estimation, stopped: str, settings: dict[str, Any]) -> Estimates:
    found = estimation.samples()
    samples: Array = found.values.sum(dim=0).numpy()
    values = found.values.mean(dim=1)
    rounding = ROUNDING * torch.finfo(estimation.source.like.dtype).eps * values.abs()  # no answer is known better
    return Estimates(
        values=values.numpy(),
        stderrs=torch.hypot(_stderr(found.without), rounding).numpy(),
        stderr=float(torch.hypot(_stderr(found.without.sum(dim=0)), rounding.sum())),
        samples=samples[:1] if stopped == "exact" else np.array(samples),
        num_products=estimation.products,
        estimator="Coordinates" if isinstance(estimation, Coordinates) else settings["estimator"],
        stopped=stopped,
        settings=settings,
        words=estimation.words,
    )
