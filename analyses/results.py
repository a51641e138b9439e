"""The table that a study ends in. No torch in here."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result

UNKNOWN = -1  # in place of a seed and a number of micro-batches, where nothing is known of the training


@dataclass(frozen=True)
class Measure:
    """How a column of the table is called and written.

    Attributes:
        label: in words, as on an axis.
        error: what its uncertainty is; empty where the value is exact, because nothing was sampled for it.
        digits: after the decimal point.
        scale: factor for display, 100 for percentages.
        flatness: whether it is a measure of flatness, where lower is flatter.
        of_classes: whether it is of classes; it is NaN, and written "-", where the targets of a task are none.
    """

    label: str
    error: str
    digits: int
    scale: float = 1.0
    flatness: bool = False
    of_classes: bool = False


MEASURES: dict[str, Measure] = {
    "test_accuracy": Measure("test accuracy (%)", "standard error over test examples", 1, scale=100, of_classes=True),
    "gap": Measure("generalization gap (points)", "that of the test accuracy", 1, scale=100, of_classes=True),
    "train_loss": Measure("training loss", "", 3),
    "test_loss": Measure("test loss", "standard error over test examples", 3),
    "largest_eigenvalue": Measure("largest Hessian eigenvalue", "residual ‖Hv − λv‖", 3, flatness=True),
    "trace": Measure("Hessian trace", "standard error over probes", 2, flatness=True),
    "sharpness": Measure("m-sharpness", "standard error over shards", 4, flatness=True),
}
ON_VALIDATION: dict[str, Measure] = {  # where there is a validation set
    "validation_accuracy": Measure("validation accuracy (%)", "binomial standard error", 1, scale=100),
    "validation_loss": Measure("validation loss", "standard error over validation examples", 3),
}
ALL_MEASURES = MEASURES | ON_VALIDATION


def differ_in_microbatches_alone(groups: Sequence[str], num_microbatches: Sequence[int]) -> bool:
    """Whether several numbers of micro-batches alone tell groups apart.

    Args:
        groups: the name of each run's group.
        num_microbatches: of each run, 0 for the base optimizer alone, which counts as having none; ``UNKNOWN`` tells
            nothing apart.
    """
    if UNKNOWN in num_microbatches:
        return False
    numbers = dict(zip(groups, num_microbatches, strict=True))
    perturbed = [group for group, number in numbers.items() if number > 0]
    methods = {group.split(", ")[0].removeprefix("m") for group in perturbed}
    others = [part for group in numbers for part in group.split(", ")[1:] if not part.endswith(" micro-batches")]
    return len(set(numbers.values())) == len(numbers) and len(perturbed) > 1 == len(methods) and not others


@dataclass(frozen=True, kw_only=True)
class RunTable(Result):
    """One row per run, all measured under one protocol.

    Attributes:
        names: ``(n,)``, the runs.
        groups: ``(n,)``, runs of one group differ in their seed only.
        seeds: ``(n,)``, ``UNKNOWN`` for weights from elsewhere.
        num_microbatches: ``(n,)``, 0 for the base optimizer alone, which has no micro-batches; ``UNKNOWN`` likewise.
        measures: ``(p,)``, those of ``MEASURES``, and of ``ON_VALIDATION`` where there is a validation set.
        values: ``(n, p)``.
        errors: ``(n, p)``, the uncertainty of each value, as ``ALL_MEASURES`` says; NaN where there is no estimate.
        converged: ``(n,)``, whether the largest eigenvalue met its tolerance.
        accuracy_covariance: ``(n, n)``, of the test accuracies, as estimates for new examples: all runs are tested on
            the same ones. None where there is no accuracy, and in tables of versions that did not keep it.
    """

    names: Array
    groups: Array
    seeds: Array
    num_microbatches: Array
    measures: Array
    values: Array
    errors: Array
    converged: Array
    accuracy_covariance: Array | None = None

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
    def of_unknown_training(self) -> Array:
        """A mask ``(n,)`` of weights from elsewhere."""
        mask: Array = self.seeds == UNKNOWN
        return mask

    @property
    def first_runs(self) -> list[int]:
        """The row of the first run of each group, in the order of the groups."""
        return [self.groups.tolist().index(group) for group in self.group_names]

    @property
    def seeds_of_groups(self) -> list[int]:
        """The number of distinct seeds of each group, in the order of the groups."""
        return [len(set(self.seeds[self.of_group(group)].tolist())) for group in self.group_names]

    @property
    def tells_classes(self) -> bool:
        """Whether there are accuracies: the targets are classes."""
        return not bool(np.isnan(self.column("test_accuracy")).all())

    @property
    def has_repeats(self) -> bool:
        """Whether any group has more than one run."""
        return len(self.names) > len(self.group_names)

    @property
    def varies_in_microbatches_alone(self) -> bool:
        """Whether several numbers of micro-batches alone tell the groups apart, the base optimizer counting as none."""
        return differ_in_microbatches_alone(self.groups.tolist(), self.num_microbatches.tolist())

    def accuracy_difference(self, first: str, second: str) -> tuple[float, float]:
        """The mean test accuracy of one group minus that of another, and its standard error over test examples.

        The error is that of paired differences, the correctness of each example averaged over the runs of a group:
        √(a'Ca), with C the covariance of the accuracies and a'p the difference of the means. It is NaN where C is
        not known.
        """
        a = self.of_group(first) / self.of_group(first).sum() - self.of_group(second) / self.of_group(second).sum()
        difference = float(a @ self.column("test_accuracy"))
        if self.accuracy_covariance is None:
            return difference, math.nan
        return difference, math.sqrt(max(0.0, float(a @ self.accuracy_covariance @ a)))

    def _column(self, numbers: Array) -> Any:
        """A number of each run, once per measure; nothing in place of those that are not known."""
        repeated = np.repeat(numbers, self.values.shape[1])
        return pd.array(_or_none(repeated), dtype="Int64") if UNKNOWN in repeated else repeated

    def to_frame(self) -> pd.DataFrame:
        """One row per run and measure: name, group, seed, num_microbatches, measure, value, error."""
        rows, columns = self.values.shape
        return pd.DataFrame(
            {
                "name": np.repeat(self.names, columns),
                "group": np.repeat(self.groups, columns),
                "seed": self._column(self.seeds),
                "num_microbatches": self._column(self.num_microbatches),
                "measure": np.tile(self.measures, rows),
                "value": self.values.ravel(),
                "error": self.errors.ravel(),
            }
        )

    def lines(self) -> list[Line]:
        """Every value of every run with its uncertainty."""
        return [
            Line(
                f"{name}: {ALL_MEASURES[measure].label}",
                float(self.values[i, j] * ALL_MEASURES[measure].scale),
                float(self.errors[i, j] * ALL_MEASURES[measure].scale) if ALL_MEASURES[measure].error else None,
                "NOT CONVERGED" if measure == "largest_eigenvalue" and not self.converged[i] else "",
            )
            for i, name in enumerate(self.names.tolist())
            for j, measure in enumerate(self.measures.tolist())
        ]

    def summary(self) -> dict[str, Any]:
        """Every run with every value and its uncertainty."""
        runs = []
        for i, name in enumerate(self.names.tolist()):
            entry: dict[str, Any] = {"run": name, "group": str(self.groups[i]), "seed": _or_none(self.seeds)[i]}
            entry["num_microbatches"] = _or_none(self.num_microbatches)[i]
            entry["converged"] = bool(self.converged[i])
            for j, measure in enumerate(self.measures.tolist()):
                entry[measure] = {"value": float(self.values[i, j]), "error": float(self.errors[i, j])}
            runs.append(entry)
        return {"runs": runs}


def _or_none(numbers: Array) -> list[int | None]:
    return [None if number == UNKNOWN else int(number) for number in numbers.tolist()]


@dataclass(frozen=True, kw_only=True)
class CurvatureInTraining(Result):
    """The largest Hessian eigenvalue at the checkpoints of one run. Arrays have one entry per checkpoint, ``(n,)``.

    Attributes:
        epochs: that had been trained.
        largest_eigenvalues: λ₁ there.
        residuals: ‖Hv − λ₁v‖, a bound on its error.
        converged: whether it met the tolerance.
        num_products: products that each took; all but the first were begun at the neighbour's eigenvector.
        learning_rates: of the step that led there; of the first step, at epoch 0.
        thresholds: λ₁ above which descent at that learning rate is unstable; NaN where there is no such number.
        threshold: what the threshold is, or why there is none.
    """

    epochs: Array
    largest_eigenvalues: Array
    residuals: Array
    converged: Array
    num_products: Array
    learning_rates: Array
    thresholds: Array
    threshold: str

    title: ClassVar[str] = "largest eigenvalue along training"

    @property
    def has_threshold(self) -> bool:
        """Whether there is a threshold at any epoch."""
        return bool(np.isfinite(self.thresholds).any())

    def summary(self) -> dict[str, Any]:
        """Each checkpoint with its eigenvalue, its error and what it took."""
        return {"checkpoints": self.to_frame().to_dict(orient="records"), "threshold": self.threshold}

    def lines(self) -> list[Line]:
        """The largest eigenvalue at each epoch, with its residual."""
        rows = self.to_frame().to_dict(orient="records")
        return [
            Line(
                f"epoch {row['epoch']}",
                row["largest_eigenvalue"],
                row["residual"],
                f"{row['num_products']} products"
                + ("" if math.isnan(row["threshold"]) else f"; threshold {row['threshold']:.5g}")
                + ("" if row["converged"] else "; NOT CONVERGED"),
            )
            for row in rows
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per checkpoint."""
        return pd.DataFrame(
            {
                "epoch": self.epochs,
                "largest_eigenvalue": self.largest_eigenvalues,
                "residual": self.residuals,
                "converged": self.converged,
                "num_products": self.num_products,
                "learning_rate": self.learning_rates,
                "threshold": self.thresholds,
            }
        )


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
