"""Answers about how much the loss rises around the weights. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

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
        return [Line("m-sharpness", self.value, self.stderr, remark)]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        columns = {"rise": self.per_shard, "examples": self.shard_sizes}
        if self.denominators is not None:
            columns["denominator"] = self.denominators
        return pd.DataFrame(columns).rename_axis("shard").reset_index()
