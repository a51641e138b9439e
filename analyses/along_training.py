"""The largest Hessian eigenvalue at every checkpoint that a run kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analyses.answer import Answer
from analyses.budget import Budget
from analyses.protocol import Protocol
from analyses.results import CurvatureInTraining
from analyses.subject import Subject
from landscape.answers import Eigenpairs
from landscape.files import require_writable
from landscape.manifest import hash_of_settings
from landscape.processes import Alone, Sharing
from landscape.progress import Report, unreported
from landscape.spectrum import top_eigenvalues
from msam.run import Run
from msam.stability import learning_rates, thresholds

NAME = "largest"  # of the question, in the names of files


@dataclass(frozen=True)
class Course:
    """What was found along a training.

    Attributes:
        answer: the result and its file.
        table: the same as CSV.
        unreadable: checkpoint -> why it could not be measured.
        unmeasured: checkpoints that the time did not suffice for.
        about: what was measured.
    """

    answer: Answer[CurvatureInTraining]
    table: Path
    unreadable: dict[Path, str]
    unmeasured: list[Path]
    about: str

    @property
    def files(self) -> dict[str, Path]:
        """Where it is kept, by what is there."""
        return {"result": self.answer.path, "table": self.table}

    def content(self) -> dict[str, Any]:
        """For JSON."""
        failed = [{"checkpoint": path, "error": error} for path, error in self.unreadable.items()]
        left = {"about": self.about, "failed": failed, "unmeasured": self.unmeasured}
        return self.answer.result.summary() | left | {"manifest": self.answer.result.manifest}

    def remarks(self) -> list[str]:
        """What the threshold is, and what is left to do."""
        left = f"no time was left for {len(self.unmeasured)} checkpoints; the same command goes on with them"
        return [self.answer.result.threshold, *([left] if self.unmeasured else [])]


def kept_checkpoints(run: Run) -> list[Path]:
    """The checkpoints of a run, of which there must be several.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if it kept its last one only, the run is named by one of its checkpoints, or its weights come from
            elsewhere.
    """
    _ = run.training  # which says so where nothing is known of it
    if run.name != run.path.absolute().name:  # it is named by one of them
        raise ValueError(
            f"{run.checkpoint} is one checkpoint; name the run directory {run.path} to measure all of them"
        )
    found = run.checkpoints()
    if len(found) == 1:
        raise ValueError(
            f"the run {run.path} has kept {found[0].name} alone; train with --checkpoint-every 1 to keep every epoch"
        )
    return found or [run.checkpoint]  # which says so where there is none


def along_training(
    run: Run,
    protocol: Protocol,
    *,
    device: str = "cpu",
    report: Report = unreported,
    seconds: float | None = None,
    sharing: Sharing | None = None,
) -> Course:
    """Ask every kept checkpoint for its largest eigenvalue, from the first to the last.

    Each search begins at the eigenvector of the checkpoint before. Answers are kept one by one, so that a call that was
    interrupted goes on where it stopped.

    Args:
        run: with several checkpoints.
        protocol: its split, tolerance and seed are those of the question.
        device: where to compute.
        report: stage -> progress of that stage.
        seconds: that may be spent in all; checkpoints that they do not suffice for are left out.
        sharing: processes that each ask the same, and share the work; the first of them keeps the answers.

    Raises:
        FileNotFoundError, ValueError: if there are not several checkpoints, or none of them can be measured.
        OSError: if the run cannot be written.
    """
    found = kept_checkpoints(run)
    for file in (run.result_path("along-training", "..."), run.figure_path("along-training-....png")):
        require_writable(file)  # known before it is measured for minutes
    budget = None if seconds is None else Budget(seconds, {path.name: 1.0 for path in found})
    sharing, task = sharing or Alone(), run.load_task(report)
    pairs: dict[Path, Answer[Eigenpairs]] = {}
    unreadable: dict[Path, str] = {}
    unmeasured: list[Path] = []
    before: Any = None  # eigenvectors of the checkpoint before, (dim, 1); one is measured in any case
    subject: Subject | None = None
    for path in found:
        if budget is not None and before is not None and not sharing.decided(budget.left, like=before):
            unmeasured.append(path)
            continue
        try:
            subject = Subject(Run.open(path), protocol, device=device, report=report, task=task, sharing=sharing)
        except (OSError, ValueError) as error:
            unreadable[path] = str(error)
            if budget is not None:
                budget.forgo(path.name)
            continue
        question: dict[str, Any] = {"k": 1, "tol": protocol.tol, "seed": protocol.seed}
        ask = partial(top_eigenvalues, subject.hessian, **question, initial=before)
        pairs[path] = subject.within_budget(Eigenpairs, NAME, question, ask, budget=budget, share=path.name)
        before = subject.objective.weights.new_tensor(pairs[path].result.eigenvectors)
    if subject is None:
        why = unreadable.get(found[0], "there was no time")
        raise ValueError(f"none of the {len(found)} checkpoints of {run.path} can be measured: {why}")
    result = _result(run, subject, {path: answer.result for path, answer in pairs.items()})
    key = hash_of_settings({"answers": [answer.path.stem for answer in pairs.values()]})
    place = run.result_path("along-training", key)
    table = place.with_suffix(".csv")
    if sharing.is_first:
        result.save(place)
        result.save_table(table)
    return Course(Answer(result, place), table, unreadable, unmeasured, subject.about)


def _result(run: Run, subject: Subject, pairs: dict[Path, Eigenpairs]) -> CurvatureInTraining:
    epochs = np.array([int(path.stem.removeprefix("epoch-")) for path in pairs])
    results = list(pairs.values())
    rates = learning_rates(run.training, epochs, num_examples=subject.num_training_examples)
    limits, words = thresholds(
        run.training,
        rates,
        model=subject.objective.model,
        num_examples=subject.num_training_examples,
        split=subject.protocol.split,
    )
    manifest = dict(results[-1].manifest)
    settings = {"name": "along_training", "tol": subject.protocol.tol, "seed": subject.protocol.seed}
    return CurvatureInTraining(
        epochs=epochs,
        largest_eigenvalues=np.array([result.eigenvalues[0] for result in results]),
        residuals=np.array([result.residuals[0] for result in results]),
        converged=np.array([bool(result.converged[0]) for result in results]),
        num_products=np.array([result.num_products for result in results]),
        learning_rates=rates,
        thresholds=limits,
        threshold=words,
        manifest=manifest | {"subject": {"config": run.config.to_dict()}, "measurement": settings},
    )
