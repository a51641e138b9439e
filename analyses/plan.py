"""How the spectrum of a run is to be measured. No torch in here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from analyses.budget import Budget, seconds_of
from landscape.answers import Certificate

SHARES = {"eigenvalues": 2.0, "trace": 1.0, "density": 1.0}  # of a budget; what is not used goes to the next
ONE_ALONE = {
    "eigenvalues": "-k",
    "trace_probes": "--probes",
    "estimator": "--estimator",
    "density_steps": "--steps",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The ways of ``msam spectrum``, which exclude one another, and its budget.

    Attributes:
        certify: whether eigenvalues and trace are certified.
        dry_run: whether to say what it would cost, and measure nothing.
        all_checkpoints: whether the largest eigenvalue at every checkpoint is asked for instead.
        budget: a duration such as ``60s``; no limit when None.
        estimator: that of the protocol.
        given: the settings of the protocol that were asked for by name.

    Raises:
        ValueError: if they do not go together, or the budget is no duration.
    """

    certify: bool = False
    dry_run: bool = False
    all_checkpoints: bool = False
    budget: str | None = None
    estimator: str = ""
    given: Collection[str] = ()

    def __post_init__(self) -> None:
        ways = {"--dry-run": self.dry_run, "--all-checkpoints": self.all_checkpoints, "--certify": self.certify}
        chosen = [name for name, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"choose one of {' and '.join(chosen)}")
        if self.dry_run and self.budget is not None:
            raise ValueError("--dry-run measures nothing that a --budget could limit; leave one of them out")
        if self.budget is not None and self.estimator == "exact-gauss-newton":
            raise ValueError(
                "a --budget cannot cut short the passes of --estimator exact-gauss-newton; leave one of them out"
            )
        if self.all_checkpoints and "parameters" in self.given:
            raise ValueError(
                "--all-checkpoints puts the largest eigenvalue beside 2/lr, which is of all that was trained;"
                " leave out --parameters"
            )
        unused = [flag for name, flag in ONE_ALONE.items() if name in self.given]
        if self.all_checkpoints and unused:
            raise ValueError(f"--all-checkpoints asks for the largest eigenvalue alone; leave out {', '.join(unused)}")
        _ = self.seconds

    @property
    def seconds(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget is None else seconds_of(self.budget)

    @property
    def certified(self) -> tuple[str, ...]:
        """The questions whose answers are certified."""
        return ("eigenvalues", "trace") if self.certify else ()

    def budget_for(self, questions: Collection[str]) -> Budget | None:
        """A budget that begins now, shared by these questions."""
        if self.seconds is None:
            return None
        return Budget(self.seconds, {question: SHARES[question] for question in questions})


def verdict(certificates: Mapping[str, Certificate]) -> str:
    """What failed in the certificates of questions, as one sentence; empty when they have passed."""
    failed = [
        f"{check.sentence}, of the {question}"
        for question, certificate in certificates.items()
        for check in certificate.failures
    ]
    return f"the certificate failed: {'; '.join(failed)}. Do not use these numbers as they are" if failed else ""
