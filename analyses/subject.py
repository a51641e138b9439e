"""A run's checkpoint brought back to life, and answers about it that are kept and read back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from analyses.answer import Answer, Kind, is_cut_short
from analyses.budget import Budget
from analyses.protocol import Protocol
from landscape.batch_norm import of_layers
from landscape.batches import tensors
from landscape.files import require_writable
from landscape.manifest import hash_of_settings, hash_of_tensor
from landscape.objective import Objective
from landscape.operators import HessianOperator
from landscape.parameters import Vector
from landscape.processes import Alone, Sharing
from landscape.progress import Progress, Report, unreported
from landscape.scores import Score
from msam.data import Examples
from msam.evaluation import Evaluation, evaluate
from msam.run import Run
from msam.tasks import Split, Task
from msam.trained_on import other_data, require_same_data
from msam.training import choose_device

FEW = 100  # examples that show whether targets are classes


def _fingerprint(examples: Examples) -> str:
    hashes = [hash_of_tensor(tensor) for tensor in tensors(examples.inputs)]
    content = {"inputs": hashes[0] if len(hashes) == 1 else hashes, "targets": hash_of_tensor(examples.targets)}
    return f"{len(examples)} examples, {hash_of_settings(content)}"


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
        FileNotFoundError, ValueError: if there is no checkpoint, it is damaged or of another architecture, or it was
            trained on other data, where the protocol does not allow for them.
        ProcessLostError: if that is so for another process alone.
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
        self.report = report
        self._budget = budget
        self._sharing = Alone() if sharing is None else sharing
        self._task = task = task or run.load_task(report)
        failure: Exception | None = None
        place = choose_device(device)
        try:
            self._model = run.load_model(task).to(place)
            if not protocol.other_data:
                require_same_data(run, task, way_out="or measure on those of now with --other-data")
        except (OSError, ValueError) as error:
            failure = error
        self._sharing.require_all(failure, device=place)  # a checkpoint must be there for each of them
        unlike = other_data(run, task) if protocol.other_data else []
        self.trained_on = f"{run.name} was trained on other data: {'; '.join(unlike)}" if unlike else ""
        self.about = (task.about or task.name) + (f" ({self.trained_on})" if unlike else "")
        self.data = {"training set": _fingerprint(task.train), "test set": _fingerprint(task.test)}
        if task.validation is not None:
            self.data["validation set"] = _fingerprint(task.validation)
        self.held_out_split: Split = "test" if protocol.split == "train" else "train"
        self._over: dict[Split, Objective] = {}
        self.objective: Objective = self.over(protocol.split)

    @property
    def keeps(self) -> bool:
        """Whether this process is the one that keeps answers."""
        return self._sharing.is_first

    def over(self, split: Split) -> Objective:
        """The loss of the checkpoint over one split."""
        if split not in self._over:
            self._over[split] = self._objective(split)
        return self._over[split]

    @cached_property
    def score(self) -> Score | None:
        """The accuracy that goes with the loss; None where the targets are no classes."""
        few = Examples(*next(self._task.train.batches(FEW)))
        return self._evaluation(few).score

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

    @cached_property
    def validation(self) -> Evaluation | None:
        """The model on the validation examples; None where there are none."""
        return None if self._task.validation is None else self._evaluation(self._task.validation)

    def require_writable(self) -> None:
        """Find out before anything is measured whether answers can be kept, where none has been kept yet.

        Raises:
            OSError: if they cannot; where there are some, all may be there, and nothing need be written.
        """
        if not (self.run.path / "results").is_dir():
            require_writable(self.run.result_path("...", "..."))

    @cached_property
    def hessian(self) -> HessianOperator:
        """The Hessian at the checkpoint; all questions share what it keeps for its products."""
        return HessianOperator(self.objective)

    @property
    def held_out(self) -> Objective:
        """The objective of the same model on another split: on the test data for the training data, else on these."""
        return self.over(self.held_out_split)

    def weights_at(self, run: Run) -> Vector:
        """The weights of a checkpoint of the same task and architecture, ``(dim,)``; it raises as :meth:`other`."""
        return self.other(run)[0]

    def other(self, run: Run) -> tuple[Vector, bool]:
        """The weights of a checkpoint of the same task and architecture, and whether batch norm has our statistics.

        Raises:
            FileNotFoundError, ValueError: if there is none, it is damaged, of another task or architecture, or differs
                in weights that are not measured.
        """
        if run.config.task != self.run.config.task:
            raise ValueError(
                f"{run.path} is of the task {run.config.task} and {self.run.path} of {self.run.config.task}; name "
                "checkpoints of one task"
            )
        model = run.load_model(self._task)
        found = self.objective.space.weights_of(model).to(self.objective.weights)
        self._require_same_rest(dict(model.named_parameters()), run)
        ours, theirs = of_layers(self._model), of_layers(model)
        return found, all(ours[name].equal(theirs[name].to(ours[name])) for name in ours)

    def require_same_rest(self, other: Subject) -> None:
        """Another checkpoint must have the weights that are not measured, which stay as they are, in common.

        Raises:
            ValueError: naming those that differ.
        """
        self._require_same_rest(dict(other._model.named_parameters()), other.run)

    def _require_same_rest(self, theirs: Mapping[str, Vector], run: Run) -> None:
        own, measured = dict(self._model.named_parameters()), set(self.objective.space.names)
        unlike = [name for name in own if name not in measured and not own[name].equal(theirs[name].to(own[name]))]
        if unlike:
            some = ", ".join(unlike[:3]) + (f" and {len(unlike) - 3} more" if len(unlike) > 3 else "")
            way_out = "" if self.protocol.parameters == "*" else ", or leave out --parameters"
            raise ValueError(
                f"{run.checkpoint} and {self.run.checkpoint} differ in weights that are not measured ({some}), so what "
                f"lies between them cannot be looked at. Name checkpoints that share these{way_out}."
            )

    def path_of(self, name: str, question: Mapping[str, Any]) -> Path:
        """Where the answer to a question is kept: named by what decides it, the checkpoint and its data included."""
        asked = {key: value for key, value in self.objective.manifest().items() if key != "machine"}
        return self.run.result_path(name, hash_of_settings(asked | {"question": dict(question)}))

    def unfinished(self, name: str, question: Mapping[str, Any]) -> Path:
        """Where the finished part of an answer is kept until all of it is."""
        path = self.path_of(name, question)
        return path.with_name(f"unfinished-{path.name}")

    def remembered(
        self, kind: type[Kind], name: str, question: Mapping[str, Any], ask: Callable[[Progress], Kind]
    ) -> Answer[Kind]:
        """The answer that was given before, or a new one, which the first process keeps; see :meth:`within_budget`."""
        path = self.path_of(name, question)
        known = self._known(kind, path)
        if known is not None:
            return Answer(known, path)
        if self.keeps:
            require_writable(path)  # known before it is measured for minutes
        result = ask(self.report(f"{self.run.name}: {kind.title}"))
        if self.keeps:
            self.run.require_present("measured")
            result.save(path)
            self.unfinished(name, question).unlink(missing_ok=True)
        return Answer(result, path)

    def _known(self, kind: type[Kind], path: Path) -> Kind | None:
        """What is kept there, where all processes can read it."""
        known = None
        with contextlib.suppress(FileNotFoundError, ValueError):  # not asked before, or the file is damaged
            known = kind.load(path)
        (number,) = self._sharing.summed([self.objective.weights.new_tensor(known is not None)])
        return known if int(number) == self._sharing.number else None

    def within_budget(
        self,
        kind: type[Kind],
        name: str,
        question: Mapping[str, Any],
        ask: Callable[..., Kind],
        *,
        rests_on: Callable[[], bool] | None = None,
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
            rests_on: whether what it is made of was cut short, and so is this.
            budget: in place of the one of all questions.
            share: whose share in the budget it is; that of the question when left out.
        """
        path, budget = self.path_of(name, question), budget or self._budget
        if budget is None:
            return self.remembered(kind, name, question, lambda p: ask(progress=p))
        shorter = self.path_of(name, dict(question) | {"budget": budget.seconds})
        for place in (path, shorter):
            known = self._known(kind, place)
            if known is not None:
                budget.forgo(share or name)
                return Answer(known, place)
        progress = self.report(f"{self.run.name}: {kind.title}")
        seconds = budget.allot(share or name)
        if self.keeps:
            require_writable(path)
        result = ask(max_seconds=seconds, progress=progress)
        if self.keeps:
            self.run.require_present("measured")
        is_short = is_cut_short(result) or (rests_on is not None and rests_on())
        place = shorter if is_short else path
        if self.keeps:
            result.save(place)
        return Answer(result, place)

    def _objective(self, split: Split) -> Objective:
        trained, pattern = self.run.config.trainable, self.protocol.parameters
        trained = "*" if trained == "all" else trained
        objective = self._task.objective(self._model, split=split, parameters=trained, sharing=self._sharing)
        return objective if pattern == "*" else objective.select(pattern)

    def _evaluation(self, examples: Examples) -> Evaluation:
        task = self._task
        return evaluate(self._model, task.loss, examples, forward=task.forward, denominator=task.denominator, each=True)


def subjects_of(
    runs: Sequence[Run], protocol: Protocol, *, device: str = "cpu", report: Report = unreported
) -> list[Subject]:
    """One for each run; those of one task share it, loaded once.

    Raises:
        FileNotFoundError, ValueError: see :class:`Subject`.
    """
    tasks: dict[str, Task] = {}
    found = []
    for run in runs:
        key = hash_of_settings({"task": run.config.task, "settings": dict(run.config.settings)})
        if key not in tasks:
            tasks[key] = run.load_task(report)
        found.append(Subject(run, protocol, device=device, report=report, task=tasks[key]))
    return found
