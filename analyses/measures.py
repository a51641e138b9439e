"""Every question of a protocol, asked of one checkpoint; what has been answered before is read back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from analyses.answer import Answer, Kind, Report, is_cut_short, unreported
from analyses.budget import Budget
from analyses.protocol import Protocol
from landscape.answers import (
    Certificate,
    Eigenpairs,
    Forecast,
    LineSlice,
    PlaneSlice,
    Sharpness,
    SpectralDensity,
    TraceEstimate,
)
from landscape.certifying import certify
from landscape.density import spectral_density
from landscape.directions import filter_normalized
from landscape.files import require_writable
from landscape.forecasting import for_density, for_eigenvalues, for_trace, forecast
from landscape.manifest import hash_of_settings, hash_of_tensor
from landscape.objective import Objective
from landscape.operators import HessianOperator
from landscape.perturbations import GradientAscent
from landscape.processes import Alone, Sharing
from landscape.progress import Progress
from landscape.sharpness import m_sharpness
from landscape.slices import line_slice, plane_slice
from landscape.spectrum import top_eigenvalues
from landscape.traces import trace
from msam.data import Examples
from msam.evaluation import Evaluation, evaluate
from msam.run import Run
from msam.tasks import Task
from msam.training import choose_device


def _fingerprint(examples: Examples) -> str:
    content = {"inputs": hash_of_tensor(examples.inputs), "targets": hash_of_tensor(examples.targets)}
    return f"{len(examples)} examples, {hash_of_settings(content)}"


def _without(question: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in question.items() if key != name}


class Subject:
    """A run's checkpoint brought back to life: the model, its objective, and its accuracy on both splits.

    Args:
        run: the run, or one checkpoint of it.
        protocol: what will be asked.
        device: where to compute.
        report: stage -> progress of that stage.
        budget: the time that eigenvalues, trace and density may take; no limit when left out.
        task: the run's task, where it has been loaded before.
        sharing: processes that each ask the same questions, and share the work; the first of them keeps the answers.

    Raises:
        FileNotFoundError, ValueError: if there is no checkpoint, or it is damaged or of another architecture.
    """

    def __init__(
        self,
        run: Run,
        protocol: Protocol,
        *,
        device: str = "cpu",
        report: Report = unreported,
        budget: Budget | None = None,
        task: Task | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self.run = run
        self.protocol = protocol
        self._report = report
        self._budget = budget
        self._sharing = Alone() if sharing is None else sharing
        self._task = task = task or run.config.load_task()
        self._model = run.load_model(task).to(choose_device(device))
        self.about = task.about
        self.data = {"training set": _fingerprint(task.train), "test set": _fingerprint(task.test)}
        self.objective: Objective = task.objective(self._model, split=protocol.split, sharing=sharing)

    @property
    def num_training_examples(self) -> int:
        """The size of the training set, whatever split is measured."""
        return len(self._task.train)

    @cached_property
    def train(self) -> Evaluation:
        """The model on the training examples."""
        return self._evaluation(self._task.train)

    @cached_property
    def test(self) -> Evaluation:
        """The model on the test examples."""
        return self._evaluation(self._task.test)

    def require_writable(self) -> None:
        """Find out before anything is measured whether answers can be kept, where none has been kept yet.

        Raises:
            OSError: if they cannot; where there are some, all may be there, and nothing need be written.
        """
        if not (self.run.path / "results").is_dir():
            require_writable(self.run.result_path("...", "..."))

    def _evaluation(self, examples: Examples) -> Evaluation:
        return evaluate(self._model, self._task.loss, examples.to(self.objective.weights.device))

    @cached_property
    def hessian(self) -> HessianOperator:
        """The Hessian at the checkpoint; all questions share what it keeps for its products."""
        return HessianOperator(self.objective)

    @cached_property
    def _questions(self) -> dict[str, dict[str, Any]]:
        """What decides the answers to the questions about the Hessian."""
        p = self.protocol
        eigenvalues = {"k": p.eigenvalues, "tol": p.tol, "seed": p.seed}
        probes = {"num_steps": p.density_steps, "num_probes": p.density_probes, "seed": p.seed}
        return {
            "eigenvalues": eigenvalues,
            "trace": {"num_probes": p.trace_probes, "seed": p.seed, "estimator": "KrylovAware"},
            "density": probes | {"eigenvalues": eigenvalues},
        }

    @property
    def answered(self) -> list[str]:
        """Which of eigenvalues, trace and density have been measured before, to the end."""
        return [name for name, question in self._questions.items() if self._path(name, question).is_file()]

    def eigenvalues(self) -> Answer[Eigenpairs]:
        """The largest Hessian eigenvalues."""
        question = self._questions["eigenvalues"]
        ask = partial(top_eigenvalues, self.hessian, **question)
        return self.within_budget(Eigenpairs, "eigenvalues", question, ask)

    def trace(self) -> Answer[TraceEstimate]:
        """The Hessian trace."""
        question = self._questions["trace"]
        ask = partial(trace, self.hessian, **_without(question, "estimator"))  # the default one
        return self.within_budget(TraceEstimate, "trace", question, ask)

    def density(self) -> Answer[SpectralDensity]:
        """The Hessian's spectral density, with the largest eigenvalues apart from it."""
        question = self._questions["density"]

        def ask(**limits: Any) -> SpectralDensity:
            outliers = self.eigenvalues().result
            return spectral_density(self.hessian, **_without(question, "eigenvalues"), outliers=outliers, **limits)

        return self.within_budget(SpectralDensity, "density", question, ask, rests_on=self.eigenvalues)

    def certificate(self, answer: Answer[Any]) -> Answer[Certificate]:
        """The certificate of eigenvalues or of a trace, made anew each time; it is kept beside what it certifies."""
        progress = self._report(f"{self.run.name}: {Certificate.title} of the {answer.result.title}")
        certificate = certify(answer.result, self.hessian, seed=self.protocol.seed, progress=progress)
        path = answer.path.with_name(f"certificate-{answer.path.name}")
        return Answer(certificate, certificate.save(path))

    def forecast(self) -> Forecast:
        """What eigenvalues, trace and density would cost, were they asked now; nothing is kept of it."""
        p = self.protocol
        self._report(f"{self.run.name}: {Forecast.title}")
        asked = (
            for_eigenvalues(self.hessian, p.eigenvalues),
            for_trace(p.trace_probes),
            for_density(self.hessian, p.density_steps, p.density_probes, outliers=p.eigenvalues),
        )
        return forecast(self.hessian, asked)

    def sharpness(self) -> Answer[Sharpness]:
        """m-sharpness under the ascent of SAM."""
        p = self.protocol
        ascent = GradientAscent(p.rho)
        size = min(p.microbatch_size, self.objective.num_examples)
        question = {"microbatch_size": size, **ascent.settings(), "order": self.objective.order}

        def ask(progress: Progress) -> Sharpness:
            return m_sharpness(self.objective, ascent, microbatch_size=size, progress=progress)

        return self._remembered(Sharpness, "sharpness", question, ask)

    def line(self) -> Answer[LineSlice]:
        """The loss along one filter-normalised direction."""
        p = self.protocol
        question = {"reach": p.reach, "points": p.line_points, "seed": p.seed}

        def ask(progress: Progress) -> LineSlice:
            direction = filter_normalized(self.objective, seed=p.seed)
            coordinates = np.linspace(-p.reach, p.reach, p.line_points)
            return line_slice(self.objective, direction, coordinates=coordinates, progress=progress)

        return self._remembered(LineSlice, "line", question, ask)

    def plane(self) -> Answer[PlaneSlice]:
        """The loss over the plane of two orthogonal filter-normalised directions."""
        p = self.protocol
        question = {"reach": p.reach, "points": p.plane_points, "seed": p.seed}

        def ask(progress: Progress) -> PlaneSlice:
            first = filter_normalized(self.objective, seed=p.seed)
            second = filter_normalized(self.objective, seed=p.seed + 1, orthogonal_to=first)
            grid = np.linspace(-p.reach, p.reach, p.plane_points)
            return plane_slice(self.objective, (first, second), x=grid, y=grid, progress=progress)

        return self._remembered(PlaneSlice, "plane", question, ask)

    def within_budget(
        self,
        kind: type[Kind],
        name: str,
        question: Mapping[str, Any],
        ask: Callable[..., Kind],
        *,
        rests_on: Callable[[], Answer[Any]] | None = None,
        budget: Budget | None = None,
        share: str = "",
    ) -> Answer[Kind]:
        """The answer that was given before, or a new one in the time there is.

        A full answer serves every later call. One that was cut short is kept as the answer within this budget alone.

        Args:
            kind: of the answer.
            name: of the question, which begins the name of the file.
            question: what decides the answer.
            ask: called with ``progress`` and, where there is a budget, ``max_seconds``.
            rests_on: asks for what it is made of; where that was cut short, so is this.
            budget: in place of the one of all questions.
            share: whose share in the budget it is; that of the question when left out.
        """
        path, budget = self._path(name, question), budget or self._budget
        if budget is None:
            return self._remembered(kind, name, question, lambda p: ask(progress=p))
        shorter = self._path(name, dict(question) | {"budget": budget.seconds})
        for place in (path, shorter):
            with contextlib.suppress(FileNotFoundError, ValueError):
                answer = Answer(kind.load(place), place)
                budget.forgo(share or name)
                return answer
        progress = self._report(f"{self.run.name}: {kind.title}")
        seconds = budget.allot(share or name)
        require_writable(path)
        result = ask(max_seconds=seconds, progress=progress)
        self.run.require_present("measured")
        is_short = is_cut_short(result) or (rests_on is not None and rests_on().is_cut_short)
        place = shorter if is_short else path
        return Answer(result, result.save(place))

    def _path(self, name: str, question: Mapping[str, Any]) -> Path:
        asked = {key: value for key, value in self.objective.manifest().items() if key != "machine"}
        return self.run.result_path(name, hash_of_settings(asked | {"question": dict(question)}))

    def _remembered(
        self, kind: type[Kind], name: str, question: Mapping[str, Any], ask: Callable[[Progress], Kind]
    ) -> Answer[Kind]:
        path = self._path(name, question)
        known = None
        with contextlib.suppress(FileNotFoundError, ValueError):  # not asked before, or the file is damaged
            known = kind.load(path)
        (number,) = self._sharing.summed([self.objective.weights.new_tensor(known is not None)])
        if known is not None and int(number) == self._sharing.number:
            return Answer(known, path)
        if self._sharing.is_first:
            require_writable(path)  # known before it is measured for minutes
        result = ask(self._report(f"{self.run.name}: {kind.title}"))
        if self._sharing.is_first:
            self.run.require_present("measured")
            result.save(path)
        return Answer(result, path)
