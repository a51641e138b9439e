"""Answers about how much the loss rises around the weights. No torch in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from landscape.answers.traces import reach_of
from landscape.manifest import differences
from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class Sharpness(Result):
    """The mean rise in loss over shards of the data, each perturbed on its own.

    Attributes:
        value: mean over shards, weighted by what the loss of each is divided by (its examples, for a plain mean).
        stderr: its standard error over shards; NaN for a single shard, which gives no estimate of it.
        per_shard: ``(num_shards,)``, rise in loss of each shard that has anything to count.
        shard_sizes: ``(num_shards,)``, examples in each.
        denominators: ``(num_shards,)``, what the loss of each is divided by, its weight in the mean: examples, tokens,
            or class weights; None in results that were saved before these were.
        microbatch_size: examples per shard asked for.
    """

    value: float
    stderr: float
    per_shard: Array = field(repr=False)
    shard_sizes: Array = field(repr=False)
    denominators: Array | None = field(repr=False, default=None)
    microbatch_size: int

    title: ClassVar[str] = "m-sharpness"

    def summary(self) -> dict[str, Any]:
        """Value and standard error."""
        return {
            "sharpness": self.value,
            "stderr": self.stderr,
            "microbatch_size": self.microbatch_size,
            "num_shards": len(self.per_shard),
            **{key: value for key, value in self.manifest.get("measurement", {}).items() if key in ("rho", "eta")},
        }

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        remark = f"standard error over {len(self.per_shard)} shards of {self.microbatch_size} examples"
        if len(self.per_shard) == 1:
            remark = "a single shard gives no standard error"
        return [Line(self.title, self.value, self.stderr, remark)]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        columns = {"rise": self.per_shard, "examples": self.shard_sizes}
        if self.denominators is not None:
            columns["denominator"] = self.denominators
        return pd.DataFrame(columns).rename_axis("shard").reset_index()


@dataclass(frozen=True, kw_only=True)
class WorstCaseSharpness(Sharpness):
    """The mean over shards of the highest rise in loss that was found in a ball: a lower bound on the highest there is.

    Attributes:
        starts: ``(num_shards,)``, where the ascent began that found it: ``"w"``, ``"random 1"``, ..., ``"last radius"``
            (for a grid of radii), or ``"none"`` where nothing was higher than w itself.
        lengths: ``(num_shards,)``, ‖ε/T‖ of what was found, at most ρ; below it where the highest point lies inside.
    """

    starts: Array = field(repr=False)
    lengths: Array = field(repr=False)

    title: ClassVar[str] = "worst-case sharpness"

    def lines(self) -> list[Line]:
        """The value with its standard error, and which starts found it."""
        counts = Counter(self.starts.tolist())
        found = ", ".join(f"{count} from {start}" for start, count in sorted(counts.items()))
        (line,) = super().lines()
        return [line._replace(remark=f"{line.remark}; a lower bound, found {found}")]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        return super().to_frame().assign(start=self.starts, length=self.lengths)


@dataclass(frozen=True, kw_only=True)
class Sampled(Result):
    """A mean of samples that are independent and of one distribution.

    Attributes:
        value: the mean.
        stderr: its standard error; NaN where a sample is not finite.
        samples: ``(n,)``.
    """

    value: float
    stderr: float
    samples: Array = field(repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval by Student's t.

        Raises:
            ValueError: if the level is not between 0 and 1.
        """
        reach = reach_of(len(self.samples), level) * self.stderr
        return self.value - reach, self.value + reach

    def to_frame(self) -> pd.DataFrame:
        """One row per sample."""
        return pd.DataFrame({"sample": self.samples}).rename_axis("draw").reset_index()


@dataclass(frozen=True, kw_only=True)
class UnderNoise(Sampled):
    """A mean under normal noise in the weights; a kind of it names the standard deviation of the noise.

    Attributes:
        samples: ``(num_draws,)``, the mean over w + δ and w − δ, for each δ.
        loss: L(w).
    """

    loss: float

    measures: ClassVar[str]  # of what the mean is one, in a summary
    deviation: ClassVar[str]  # the field with the standard deviation
    words: ClassVar[str]  # what is said of it, with the deviation in place of {}

    def summary(self) -> dict[str, Any]:
        """Value, standard error and 95 % interval."""
        low, high = self.interval()
        found = {self.measures: self.value, "stderr": self.stderr, "low": low, "high": high}
        found |= {self.deviation: getattr(self, self.deviation)}
        return found | {"num_draws": len(self.samples), "loss": self.loss}

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        words = self.words.format(f"{getattr(self, self.deviation):g}")
        remark = f"standard error over {len(self.samples)} pairs of draws; {words}"
        return [Line(self.title, self.value, self.stderr, remark)]


@dataclass(frozen=True, kw_only=True)
class AverageCaseSharpness(UnderNoise):
    """The mean rise in loss under normal noise in the weights.

    Attributes:
        samples: ``(num_draws,)``, the mean of the rises at w + δ and at w − δ, for each δ.
        rho: standard deviation of the noise in each weight, or in each weight over its scale T.
    """

    rho: float

    title: ClassVar[str] = "average-case sharpness"
    measures, deviation = "sharpness", "rho"
    words = "ρ is the deviation of each weight"


@dataclass(frozen=True, kw_only=True)
class SharpnessCurve(Result):
    """Sharpness of one kind over a grid of radii.

    Attributes:
        rhos: ``(r,)``, ascending.
        values: ``(r,)``.
        stderrs: ``(r,)``, standard errors; NaN where there is none.
        samples: ``(r, n)``, what each value is the mean of: rises of shards, or of pairs of draws.
        kind: which sharpness.
        radius: what ρ is, in words.
        microbatch_size: examples per shard; None where there are no shards.
    """

    rhos: Array
    values: Array
    stderrs: Array
    samples: Array = field(repr=False)
    kind: str
    radius: str
    microbatch_size: int | None = None

    title: ClassVar[str] = "sharpness over radii"

    @classmethod
    def of(cls, results: Sequence[Sharpness | AverageCaseSharpness]) -> Self:
        """The curve through results that differ in their radius alone, in any order.

        Raises:
            ValueError: if there is none, or if they differ in anything else, or two have one radius.
        """
        if not results:
            raise ValueError("results must hold at least one sharpness; got none")
        results = sorted(results, key=_rho)
        first, rhos = results[0], [_rho(result) for result in results]
        for other in results[1:]:
            apart = [text for text in differences(first.manifest, other.manifest) if text.split(":")[0] != _WHERE]
            subjects = [result.manifest.get("subject") for result in (first, other)]
            if type(other) is not type(first) or apart or subjects[0] != subjects[1]:
                told = "; ".join(apart) or "their kinds or weights"
                raise ValueError(f"results of one curve must differ in their radius alone; they differ in {told}")
        if len(set(rhos)) < len(rhos):
            raise ValueError(f"results of one curve must have different radii; got {rhos}")
        measurement = dict(first.manifest.get("measurement", {}))
        measurement["rho"] = rhos
        shards = [r.per_shard if isinstance(r, Sharpness) else r.samples for r in results]
        return cls(
            rhos=np.array(rhos),
            values=np.array([result.value for result in results]),
            stderrs=np.array([result.stderr for result in results]),
            samples=np.array(shards),
            kind=first.title,
            radius=meaning_of_radius(measurement),
            microbatch_size=first.microbatch_size if isinstance(first, Sharpness) else None,
            manifest=dict(first.manifest) | {"measurement": measurement},
        )

    def summary(self) -> dict[str, Any]:
        """The values with their standard errors, radius by radius."""
        return {
            "kind": self.kind,
            "radius": self.radius,
            "microbatch_size": self.microbatch_size,
            "rhos": self.rhos.tolist(),
            "values": self.values.tolist(),
            "stderrs": self.stderrs.tolist(),
        }

    def lines(self) -> list[Line]:
        """Each value with its standard error."""
        shards = "pairs of draws" if self.microbatch_size is None else f"shards of {self.microbatch_size} examples"
        remark = f"standard error over {self.samples.shape[1]} {shards}; {self.radius}"
        return [
            Line(f"{self.kind}, ρ = {rho:g}", float(value), float(stderr), remark)
            for rho, value, stderr in zip(self.rhos, self.values, self.stderrs, strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per radius."""
        return pd.DataFrame({"rho": self.rhos, "value": self.values, "stderr": self.stderrs})


_WHERE = "measurement.rho"


def _rho(result: Result) -> float:
    measurement = result.manifest.get("measurement", {})
    if "rho" not in measurement:
        raise ValueError(f"a {type(result).__name__} of a curve must have its radius, rho, in its manifest")
    return float(measurement["rho"])


def meaning_of_radius(measurement: Mapping[str, Any]) -> str:
    """What the radius of a perturbation is."""
    scaled = "eta" in measurement
    over = " / T" if scaled else ""
    where = f", T = |w| + {measurement['eta']:g}" if scaled else ""
    if measurement.get("name") == "average_case_sharpness":
        return f"ρ: standard deviation of each weight's noise{over}{where}"
    norm = {"Linf": f"max |ε{over}|", "L2": f"‖ε{over}‖₂"}.get(measurement.get("ball", "L2"), f"size of ε{over}")
    return f"ρ: bound on {norm}{where}"
