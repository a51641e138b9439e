"""The answer about how sharpness depends on the size of the shards that are perturbed. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from landscape.answers.sharpness import Sharpness, meaning_of_radius
from landscape.manifest import differences
from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class SharpnessOverSizes(Result):
    """m-sharpness over a grid of shard sizes, at one radius.

    Attributes:
        microbatch_sizes: ``(s,)``, examples per shard, ascending.
        values: ``(s,)``.
        stderrs: ``(s,)``, standard errors over the shards of each size; NaN for a single shard.
        num_shards: ``(s,)``, how many have anything to count.
        rho: the radius; NaN for a perturbation that has none.
        radius: what it is, in words.
    """

    microbatch_sizes: Array
    values: Array
    stderrs: Array
    num_shards: Array
    rho: float
    radius: str

    title: ClassVar[str] = "m-sharpness over shard sizes"

    @classmethod
    def of(cls, results: Sequence[Sharpness]) -> Self:
        """The curve through results that differ in the size of their shards alone, in any order.

        Raises:
            ValueError: if there is none, or if they differ in anything else, or two have one size.
        """
        if not results:
            raise ValueError("results must hold at least one sharpness; got none")
        results = sorted(results, key=lambda result: result.microbatch_size)
        first, sizes = results[0], [result.microbatch_size for result in results]
        for other in results[1:]:
            apart = [text for text in differences(first.manifest, other.manifest) if text.split(":")[0] != _SIZE]
            if (
                type(other) is not type(first)
                or apart
                or first.manifest.get("subject") != other.manifest.get("subject")
            ):
                told = "; ".join(apart) or "their kinds or weights"
                raise ValueError(f"results of one curve must differ in the size of shards alone; they differ in {told}")
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"results of one curve must have different sizes of shards; got {sizes}")
        measurement = dict(first.manifest.get("measurement", {})) | {"microbatch_size": sizes}
        return cls(
            microbatch_sizes=np.array(sizes),
            values=np.array([result.value for result in results]),
            stderrs=np.array([result.stderr for result in results]),
            num_shards=np.array([len(result.per_shard) for result in results]),
            rho=float(measurement.get("rho", np.nan)),
            radius=meaning_of_radius(measurement),
            manifest=dict(first.manifest) | {"measurement": measurement},
        )

    def summary(self) -> dict[str, Any]:
        """The values with their standard errors, size by size."""
        return {
            "rho": self.rho,
            "radius": self.radius,
            "microbatch_sizes": self.microbatch_sizes.tolist(),
            "values": self.values.tolist(),
            "stderrs": self.stderrs.tolist(),
            "num_shards": self.num_shards.tolist(),
        }

    def lines(self) -> list[Line]:
        """Each value with its standard error."""
        rows = zip(self.microbatch_sizes, self.values, self.stderrs, self.num_shards, strict=True)
        return [
            Line(
                f"m-sharpness, shards of {size}",
                float(value),
                float(stderr),
                f"standard error over {number} shards" if number > 1 else "a single shard gives no standard error",
            )
            for size, value, stderr, number in rows
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per size."""
        names = ("microbatch_sizes", "values", "stderrs", "num_shards")
        columns = ("microbatch_size", "value", "stderr", "num_shards")
        return pd.DataFrame({column: getattr(self, name) for column, name in zip(columns, names, strict=True)})


_SIZE = "measurement.microbatch_size"
