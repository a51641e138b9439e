"""The certificate of another answer: every check with its value, its tolerance and its verdict. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from landscape.manifest import Manifest
from landscape.results import Array, Line, Result

PASSED, FAILED, OPEN = "passed", "FAILED", "not judged"


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        value: what was found; NaN where nothing could be.
        tolerance: what it may be at most; NaN where the verdict does not depend on it.
        verdict: passed, FAILED, or not judged where the check tells nothing, or only reports.
        seconds: what it took.
        remark: what a person should know besides.
    """

    name: str
    value: float
    tolerance: float
    verdict: str
    seconds: float
    remark: str = ""

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        found = self.name if math.isnan(self.value) else f"{self.name} is {self.value:.3g}"
        within = "" if math.isnan(self.tolerance) else f", at most {self.tolerance:.3g} is right"
        return f"{found}{within}{f' ({self.remark})' if self.remark else ''}"


@dataclass(frozen=True, kw_only=True)
class Certificate(Result):
    """What was checked about an answer, and how it came out. All arrays have one entry per check, ``(n,)``.

    Attributes:
        kind: the class of the answer.
        names: what was looked at.
        values: what was found.
        tolerances: what it may be at most; NaN where the verdict does not depend on it.
        verdicts: ``"passed"``, ``"FAILED"``, or ``"not judged"`` where a check tells nothing, or only reports.
        seconds: what each check took.
        remarks: what a person should know besides.
    """

    kind: str
    names: Array
    values: Array
    tolerances: Array
    verdicts: Array
    seconds: Array
    remarks: Array = field(repr=False)

    title: ClassVar[str] = "certificate"

    @classmethod
    def of(cls, kind: str, checks: Sequence[Check], manifest: Manifest) -> Certificate:
        """The certificate that consists of these checks."""
        columns = [np.array(column) for column in zip(*checks, strict=True)]
        names, values, tolerances, verdicts, seconds, remarks = columns
        return cls(
            kind=kind,
            names=names,
            values=values,
            tolerances=tolerances,
            verdicts=verdicts,
            seconds=seconds,
            remarks=remarks,
            manifest=manifest,
        )

    @property
    def checks(self) -> list[Check]:
        """All checks, in the order in which they were made."""
        columns = (self.names, self.values, self.tolerances, self.verdicts, self.seconds, self.remarks)
        return [Check(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.verdict == FAILED]

    def summary(self) -> dict[str, Any]:
        """The verdict, and every check by its name."""
        checks = [check._asdict() for check in self.checks]
        return {"kind": self.kind, "passed": self.passed, "checks": checks}

    def lines(self) -> list[Line]:
        """The value of each check, with its tolerance and verdict in words."""
        return [
            Line(check.name, check.value, None, f"{check.verdict}; tolerance {check.tolerance:.2g}. {check.remark}")
            for check in self.checks
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per check."""
        return pd.DataFrame([check._asdict() for check in self.checks])
