"""The table that a study ends in. No torch in here."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Result


@dataclass(frozen=True)
class Measure:
    """How a column of the table is called and written.

    Attributes:
        label: in words, as on an axis.
        error: what its uncertainty is; empty where the value is exact on its examples.
        digits: after the decimal point.
        scale: factor for display, 100 for percentages.
        flatness: whether it is a measure of flatness, where lower is flatter.
    """

    label: str
    error: str
    digits: int
    scale: float = 1.0
    flatness: bool = False


MEASURES: dict[str, Measure] = {
    "test_accuracy": Measure("test accuracy (%)", "binomial standard error", 1, scale=100),
    "gap": Measure("generalization gap (points)", "that of the test accuracy", 1, scale=100),
    "train_loss": Measure("training loss", "", 3),
    "test_loss": Measure("test loss", "", 3),
    "largest_eigenvalue": Measure("largest Hessian eigenvalue", "residual ‖Hv − λv‖", 3, flatness=True),
    "trace": Measure("Hessian trace", "standard error over probes", 2, flatness=True),
    "sharpness": Measure("m-sharpness", "standard error over shards", 4, flatness=True),
}


@dataclass(frozen=True, kw_only=True)
class RunTable(Result):
    """One row per run, all measured under one protocol.

    Attributes:
        names: ``(n,)``, the runs.
        groups: ``(n,)``, runs of one group differ in their seed only.
        seeds: ``(n,)``.
        num_microbatches: ``(n,)``, 0 for the base optimizer alone, which has no micro-batches.
        measures: ``(p,)``, keys of ``MEASURES``.
        values: ``(n, p)``.
        errors: ``(n, p)``, the uncertainty of each value, as ``MEASURES`` says; NaN where there is no estimate.
        converged: ``(n,)``, whether the largest eigenvalue met its tolerance.
    """

    names: Array
    groups: Array
    seeds: Array
    num_microbatches: Array
    measures: Array
    values: Array
    errors: Array
    converged: Array

    title: ClassVar[str] = "comparison"

    def column(self, measure: str) -> Array:
        """The values of one measure, ``(n,)``."""
        found: Array = self.values[:, self.measures.tolist().index(measure)]
        return found

    def error(self, measure: str) -> Array:
        """The uncertainties of one measure, ``(n,)``."""
        found: Array = self.errors[:, self.measures.tolist().index(measure)]
        return found

    @property
    def group_names(self) -> list[str]:
        """The groups, in the order of their first run."""
        return list(dict.fromkeys(self.groups.tolist()))

    def of_group(self, group: str) -> Array:
        """A mask ``(n,)`` of the runs of a group."""
        mask: Array = self.groups == group
        return mask

    @property
    def num_seeds(self) -> int:
        """The number of distinct seeds of the group that has the fewest."""
        return min(self.seeds_of_groups)

    @property
    def seeds_of_groups(self) -> list[int]:
        """The number of distinct seeds of each group, in the order of the groups."""
        return [len(set(self.seeds[self.of_group(group)].tolist())) for group in self.group_names]

    @property
    def has_repeats(self) -> bool:
        """Whether any group has more than one run."""
        return len(self.names) > len(self.group_names)

    @property
    def varies_in_microbatches_alone(self) -> bool:
        """Whether the groups are told apart by their number of micro-batches, the base optimizer counting as none."""
        numbers = {group: int(self.num_microbatches[self.of_group(group)][0]) for group in self.group_names}
        methods = {group.split(", ")[0].removeprefix("m") for group, number in numbers.items() if number > 0}
        others = [part for group in numbers for part in group.split(", ")[1:] if not part.endswith(" micro-batches")]
        return len(set(numbers.values())) == len(numbers) > 1 >= len(methods) and not others

    def to_frame(self) -> pd.DataFrame:
        """One row per run and measure: name, group, seed, num_microbatches, measure, value, error."""
        rows, columns = self.values.shape
        return pd.DataFrame(
            {
                "name": np.repeat(self.names, columns),
                "group": np.repeat(self.groups, columns),
                "seed": np.repeat(self.seeds, columns),
                "num_microbatches": np.repeat(self.num_microbatches, columns),
                "measure": np.tile(self.measures, rows),
                "value": self.values.ravel(),
                "error": self.errors.ravel(),
            }
        )

    def by_group(self) -> pd.DataFrame:
        """One row per group and measure: mean, lowest and highest over its runs, and their number."""
        frame = self.to_frame()
        grouped = frame.groupby(["group", "measure"], sort=False)["value"]
        return grouped.agg(["mean", "min", "max", "count"]).reset_index()

    def summary(self) -> dict[str, Any]:
        """Every run with every value and its uncertainty."""
        runs = []
        for i, name in enumerate(self.names.tolist()):
            entry: dict[str, Any] = {"run": name, "group": str(self.groups[i]), "seed": int(self.seeds[i])}
            entry["num_microbatches"] = int(self.num_microbatches[i])
            entry["converged"] = bool(self.converged[i])
            for j, measure in enumerate(self.measures.tolist()):
                entry[measure] = {"value": float(self.values[i, j]), "error": float(self.errors[i, j])}
            runs.append(entry)
        return {"runs": runs}


@dataclass(frozen=True)
class Picture:
    """A figure for the report.

    Attributes:
        title: heading.
        caption: what is drawn, in sentences.
        svg: the picture.
    """

    title: str
    caption: str
    svg: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI, so that names inside it cannot clash with another's."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()
