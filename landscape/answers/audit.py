"""How far measures move when a model is rescaled into another that computes the same function. No torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result

LAYERS, UNITS, NORMALISED, LOGITS = "between layers", "between units", "before normalisation", "logits"
KINDS = (LAYERS, UNITS, NORMALISED, LOGITS)
INVARIANT, MOVES, OPEN = "invariant", "moves", "unknown"

_MOST_SLACK = 0.01  # whatever an eps does to the outputs, more than that is not called invariant


@dataclass(frozen=True, kw_only=True)
class Audit(Result):
    """Measures of a model before and after each of its rescalings.

    There are m measures and r rescalings; r is 0 where the model has none.

    Attributes:
        measures: ``(m,)``, their names.
        before: ``(m,)``, what they are on the model as it is.
        before_stderrs: ``(m,)``, their uncertainty: a standard error, or a bound; 0 where there is none, NaN where it
            is not known.
        after: ``(m, r)``, what they are on the rescaled model.
        after_stderrs: ``(m, r)``, their uncertainty.
        change_stderrs: ``(m, r)``, the uncertainty of after − before, from pairs of shards where there are such.
        slacks: ``(r,)``, the relative change that counts as none: rounding, and what a normalisation's eps does.
        rescalings: ``(r,)``, their kinds: ``"between layers"``, ``"between units"``, ``"before normalisation"``, or
            ``"logits"``, which multiplies the outputs and leaves the predictions alone as they are.
        layers: ``(r,)``, the layers that are rescaled.
        differences: ``(r,)``, the largest change of an output over all data, next to the largest output.
        tolerances: ``(r,)``, what that may be.
        factor: what weights are multiplied by, and others divided by.
        num_examples: over which the outputs were compared.
        skipped: what was found and not used, each with the reason.
        unmeasured: measures that this loss or model has not, each with the reason.
    """

    measures: Array
    before: Array
    before_stderrs: Array
    after: Array
    after_stderrs: Array
    change_stderrs: Array = field(repr=False)
    slacks: Array = field(repr=False)
    rescalings: Array
    layers: Array
    differences: Array
    tolerances: Array = field(repr=False)
    factor: float
    num_examples: int
    skipped: Array = field(repr=False)
    unmeasured: Array = field(repr=False, default_factory=lambda: np.empty(0, dtype=str))

    title: ClassVar[str] = "rescaling audit"
    known: ClassVar[tuple[str, ...]] = KINDS  # all kinds of rescalings, whether a model has them or not

    @property
    def labels(self) -> list[str]:
        """The rescalings by their kinds, with their layers where there are several of a kind."""
        kinds = self.rescalings.tolist()
        pairs = zip(kinds, self.layers.tolist(), strict=True)
        return [kind if kinds.count(kind) == 1 else f"{kind}: {layers}" for kind, layers in pairs]

    @property
    def ratios(self) -> Array:
        """after / before, ``(m, r)``; NaN where the measure was zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios: Array = self.after / np.where(self.before == 0, np.nan, self.before)[:, None]
        return ratios

    @property
    def verdicts(self) -> Array:
        """Whether each measure is ``"invariant"``, ``"moves"``, or it is ``"unknown"``, ``(m, r)``.

        It is invariant where it changes by the slack of the rescaling at the most, and by 1 %, relative to the larger
        of the two values: what is drawn at random is drawn alike for both, so that an invariant one has no error. It
        moves where it changes by more than the slack and three times the uncertainty of the change. Else that is open.
        """
        before = np.broadcast_to(self.before[:, None], self.after.shape)
        with np.errstate(invalid="ignore"):
            change, size = np.abs(self.after - before), np.maximum(np.abs(self.after), np.abs(before))
            same = change <= np.minimum(self.slacks, _MOST_SLACK) * size
            moves = ~same & (change > self.slacks * size) & (change > 3 * self.change_stderrs)
        finite = np.isfinite(self.after) & np.isfinite(before)
        verdicts: Array = np.where(finite & same, INVARIANT, np.where(finite & moves, MOVES, OPEN))
        return verdicts

    @property
    def words(self) -> Array:
        """How far each measure moved, for a person, ``(m, r)``: its factor, with the verdict unless that is clear."""
        words = np.full(self.after.shape, INVARIANT, dtype=object)
        for place in np.argwhere(self.verdicts != INVARIANT):
            ratio, verdict = self.ratios[tuple(place)], self.verdicts[tuple(place)]
            factor = "no factor" if np.isnan(ratio) else f"× {ratio:.3g}"
            words[tuple(place)] = factor if verdict == MOVES else f"{factor} ({verdict})"
        return words.astype(str)

    @property
    def remarks(self) -> list[str]:
        """What the numbers rest on, in sentences."""
        if not len(self.rescalings):
            said = [
                "no rescaling of this model was found that leaves its function as it is, so that nothing could move"
            ]
        else:
            said = [
                f"{kind}: {layers}. The outputs of {self.num_examples} examples "
                + (f"are multiplied by {self.factor:g}" if kind == LOGITS else "are the same")
                + f" to within {difference:.1e}, {allowed:.0e} is allowed"
                + ("; predictions stay, the loss does not" if kind == LOGITS else "")
                for kind, layers, difference, allowed in zip(
                    self.rescalings.tolist(), self.layers.tolist(), self.differences, self.tolerances, strict=True
                )
            ]
        unused = (f"not used: {reason}" for reason in self.skipped.tolist())
        return [*said, *unused, *(f"not measured: {reason}" for reason in self.unmeasured.tolist())]

    def summary(self) -> dict[str, Any]:
        """Each measure with its value, and how far each rescaling moves it; each rescaling with its verification."""
        ratios, verdicts = self.ratios, self.verdicts
        return {
            "measures": [
                {
                    "measure": name,
                    "value": float(self.before[i]),
                    "stderr": float(self.before_stderrs[i]),
                    "after": {
                        label: {
                            "value": float(self.after[i, j]),
                            "stderr": float(self.after_stderrs[i, j]),
                            "ratio": float(ratios[i, j]),
                            "verdict": str(verdicts[i, j]),
                        }
                        for j, label in enumerate(self.labels)
                    },
                }
                for i, name in enumerate(self.measures.tolist())
            ],
            "rescalings": [
                {
                    "kind": kind,
                    "layers": str(self.layers[j]),
                    "preserves": "predictions" if kind == LOGITS else "outputs",
                    "difference": float(self.differences[j]),
                    "tolerance": float(self.tolerances[j]),
                }
                for j, kind in enumerate(self.rescalings.tolist())
            ],
            "factor": self.factor,
            "num_examples": self.num_examples,
            "skipped": self.skipped.tolist(),
            "unmeasured": self.unmeasured.tolist(),
        }

    def lines(self) -> list[Line]:
        """Each measure as it is, with its factor under each rescaling in words; and those that there are not."""
        words = self.words
        missing = [reason.partition(": ") for reason in self.unmeasured.tolist()]
        return [
            Line(
                name,
                float(self.before[i]),
                float(self.before_stderrs[i]),
                "; ".join(f"{label}: {words[i, j]}" for j, label in enumerate(self.labels)) or self.remarks[0],
            )
            for i, name in enumerate(self.measures.tolist())
        ] + [Line(name, math.nan, None, f"not measured: {reason}") for name, _, reason in missing]

    def to_frame(self) -> pd.DataFrame:
        """One row per measure and rescaling; one per measure where there is no rescaling."""
        m, r = self.after.shape
        if r == 0:
            return pd.DataFrame({"measure": self.measures, "before": self.before, "before_stderr": self.before_stderrs})
        columns = {
            "measure": np.repeat(self.measures, r),
            "rescaling": np.tile(self.labels, m),
            "before": np.repeat(self.before, r),
            "before_stderr": np.repeat(self.before_stderrs, r),
            "after": self.after.ravel(),
            "after_stderr": self.after_stderrs.ravel(),
            "ratio": self.ratios.ravel(),
            "verdict": self.verdicts.ravel(),
        }
        return pd.DataFrame(columns)
