"""Every question of a protocol, asked of one checkpoint; what has been answered before is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from analyses.protocol import Protocol
from landscape.answers import Eigenpairs, LineSlice, PlaneSlice, Sharpness, SpectralDensity, TraceEstimate
from landscape.density import spectral_density
from landscape.directions import filter_normalized
from landscape.files import require_writable
from landscape.manifest import hash_of_settings, hash_of_tensor
from landscape.objective import Objective
from landscape.operators import HessianOperator
from landscape.perturbations import GradientAscent
from landscape.progress import Progress, silent
from landscape.results import Result
from landscape.sharpness import m_sharpness
from landscape.slices import line_slice, plane_slice
from landscape.spectrum import top_eigenvalues
from landscape.traces import trace
from msam.data import Examples
from msam.evaluation import Evaluation, evaluate
from msam.run import Run
from msam.training import choose_device

Kind = TypeVar("Kind", bound=Result)
Report = Callable[[str], Progress]


def unreported(stage: str) -> Progress:
    """Report no stage."""
    del stage
    return silent


def _fingerprint(examples: Examples) -> str:
    content = {"inputs": hash_of_tensor(examples.inputs), "targets": hash_of_tensor(examples.targets)}
    return f"{len(examples)} examples, {hash_of_settings(content)}"


@dataclass(frozen=True)
class Answer(Generic[Kind]):
    """A result and the file it is kept in."""

    result: Kind
    path: Path


class Subject:
    """A run's checkpoint brought back to life: the model, its objective, and its accuracy on both splits.

    Args:
        run: the run, or one checkpoint of it.
        protocol: what will be asked.
        device: where to compute.
        report: stage -> progress of that stage.

    Raises:
        FileNotFoundError, ValueError: if there is no checkpoint, or it is damaged or of another architecture.
    """

    def __init__(self, run: Run, protocol: Protocol, *, device: str = "cpu", report: Report = unreported) -> None:
        self.run = run
        self.protocol = protocol
        self._report = report
        self._task = task = run.config.load_task()
        self._model = run.load_model(task).to(choose_device(device))
        self.about = task.about
        self.data = {"training set": _fingerprint(task.train), "test set": _fingerprint(task.test)}
        self.objective: Objective = task.objective(self._model, split=protocol.split)

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

    def eigenvalues(self) -> Answer[Eigenpairs]:
        """The largest Hessian eigenvalues."""
        p = self.protocol
        question = {"k": p.eigenvalues, "tol": p.tol, "seed": p.seed}

        def ask(progress: Progress) -> Eigenpairs:
            hessian = HessianOperator(self.objective)
            return top_eigenvalues(hessian, k=p.eigenvalues, tol=p.tol, seed=p.seed, progress=progress)

        return self._remembered(Eigenpairs, "eigenvalues", question, ask)

    def trace(self) -> Answer[TraceEstimate]:
        """The Hessian trace."""
        question = {"num_probes": self.protocol.trace_probes, "seed": self.protocol.seed}

        def ask(progress: Progress) -> TraceEstimate:
            return trace(HessianOperator(self.objective), **question, progress=progress)

        return self._remembered(TraceEstimate, "trace", question, ask)

    def density(self) -> Answer[SpectralDensity]:
        """The Hessian's spectral density."""
        p = self.protocol
        question = {"num_steps": p.density_steps, "num_probes": p.density_probes, "seed": p.seed}

        def ask(progress: Progress) -> SpectralDensity:
            return spectral_density(HessianOperator(self.objective), **question, progress=progress)

        return self._remembered(SpectralDensity, "density", question, ask)

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

    def _remembered(
        self, kind: type[Kind], name: str, question: Mapping[str, Any], ask: Callable[[Progress], Kind]
    ) -> Answer[Kind]:
        asked = {key: value for key, value in self.objective.manifest().items() if key != "machine"}
        path = self.run.result_path(name, hash_of_settings(asked | {"question": dict(question)}))
        try:
            return Answer(kind.load(path), path)
        except (FileNotFoundError, ValueError):  # not asked before, or the file is damaged: ask, and replace it
            require_writable(path)  # known before it is measured for minutes
            result = ask(self._report(f"{self.run.name}: {kind.title}"))
            self.run.require_present("measured")
            return Answer(result, result.save(path))
