"""The command line: parse, call, print, save. torch is imported inside the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyses.protocol import Protocol

if TYPE_CHECKING:
    from analyses.plan import Plan
    from analyses.results import RunTable
    from analyses.subject import Subject
    from landscape.progress import Report
    from msam.config import TrainConfig
    from msam.processes import Processes
    from msam.run import Run
    from msam.tasks import Task

Command = Callable[..., Any]
Question = Callable[..., Any]  # subject -> answer
Opener = Callable[[], "list[Run]"]
Decorator = Callable[[Command], Command]


class PathType(click.Path):
    """A path, which the empty text is not: it would mean the folder that one happens to be in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A ``pathlib.Path``."""
        return super().convert(value, param, ctx) if value != "" else self.fail("a path is missing", param, ctx)


PATH = PathType(path_type=Path)


class Answering(click.Command):
    """A command whose answer alone goes to standard output; what a task of the user's own prints is said beside it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, with standard error in place of standard output."""
        ctx.meta[__name__] = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            return super().invoke(ctx)


class Sentences(click.Group):
    """Commands whose errors are one sentence, and whose exit status is 0, 1 (it failed) or 2 (bad input)."""

    command_class = Answering

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; MSAM_TRACEBACK=1 lets errors through as they are."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("always", message="micro-batches are not computed")
                warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
                with _terminated_as_interrupted():
                    return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise click.ClickException(
                "interrupted; what was finished is kept. Go on with the same command (for train: with --resume)."
            ) from None
        except Exception as error:
            from figures import terminal

            if os.environ.get("MSAM_TRACEBACK"):
                raise
            kind = click.UsageError if terminal.is_bad_input(error) else click.ClickException
            raise kind(terminal.sentence(error)) from None


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A cluster that takes the machine back sends SIGTERM: it ends a command like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Settings that make no sense are wrong usage, said with where the help is."""
    try:
        yield
    except (ValueError, FileExistsError) as error:
        raise click.UsageError(str(error)) from None


class ListType(click.ParamType[list[Any]]):
    """Several values of one type, with commas between them."""

    name = "list"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A list of the values."""
        try:
            return [self.kind(part.strip()) for part in value.split(",")]
        except ValueError:
            return self.fail(f"it takes a list such as 1,2,4; got {value!r}", param, ctx)


Row = tuple[str, Any, Any, str]  # names, type, default, help
_VARIED: tuple[Row, ...] = (
    (
        "--perturbation",
        str,
        "sam",
        "none, sam, asam, fsam, gcsam, sam-unnormalised, random, usam-trace, -frobenius or -determinant.",
    ),
    ("--rho", float, 0.05, "Radius of the perturbation."),
    ("--micro-batches num_microbatches", int, 1, "Micro-batches per batch; 1 is SAM."),
)
_LISTS = [
    (names, ListType(kind), "1,2,4,8" if "micro" in names else str(default), f"List, with commas. {text}")
    for names, kind, default, text in _VARIED
]
_SEED: Row = ("--seed", int, 0, "Of weights, data order and the model's noise.")
_SEEDS: Row = ("--seeds", click.IntRange(min=1), 3, "Seeds 0, 1, ... of each setting.")
_TRAINING: tuple[Row, ...] = (
    ("--task", str, "digits", "What to learn."),
    ("--model", str, None, "Model of the task, as listed by msam tasks show."),
    ("--data", PATH, None, "Folder with the files of a task that reads some; MSAM_DATA says where they are later."),
    ("--epochs", int, 20, "Passes over the training data."),
    ("--batch-size", int, 100, "Examples per step."),
    ("--optimizer", str, "sgd", "Base optimizer: sgd or adamw."),
    ("--lr", float, 0.1, "Learning rate at the start."),
    ("--momentum", float, 0.9, "Of sgd."),
    ("--weight-decay", float, 0.0, "Of the base optimizer."),
    ("--schedule", str, "cosine", "cosine or constant."),
    ("--rho-schedule", str, "constant", "Of the radius: constant, cosine (falling) or rising."),
    ("--ball", str, "l2", "Norm that the radius is in: l2 or linf."),
    ("--ascent-steps", int, 1, "Looks at the gradient for each perturbation."),
    ("--perturbed", str, "all", "Parameters: all, norm, all-but-norm, or a pattern such as 'head.*'."),
    ("--trainable", str, "all", "Parameters that are trained and measured: all, or a pattern such as 'head.*'."),
    ("--batch-norm", str, "shard", "Statistics in training: of the shard, of the whole batch, or running."),
    ("--dropout", str, "same", "Masks in the second pass of a micro-batch: same as in the first, or fresh."),
    ("--precision", str, "float32", "float32, or mixed: bf16 or fp16."),
    ("--max-grad-norm", float, 0.0, "The averaged gradient is shortened to this norm; 0: it is not."),
    ("--execution", str, "one-by-one", "one-by-one, layerwise, vectorised, or fastest of the three."),
    ("--device-batch-size", int, 0, "Most examples on the device at a time, one by one; 0: no limit."),
    ("--checkpoint-every", int, 0, "Keep the weights of every so many epochs; 0: the last only."),
)
_PROTOCOL: tuple[tuple[str, type, str], ...] = (  # the last of the names is that in Protocol, which has the default
    ("--split split", str, "Data whose landscape is measured: train, validation or test."),
    ("--parameters parameters", str, "Weights that are measured: a pattern of names, such as 'head.*'."),
    ("-k eigenvalues", int, "Number of largest eigenvalues."),
    ("--tol tol", float, "Relative tolerance on their residuals."),
    ("--probes trace_probes", int, "Products for the trace."),
    ("--estimator estimator", str, "Of the trace: krylov-aware, per-example, exact-gauss-newton, xtrace, hutch++, ..."),
    ("--steps density_steps", int, "Lanczos steps for the spectral density."),
    ("--rho rho", float, "Radius of m-sharpness and of worst-case sharpness."),
    ("--microbatch-size microbatch_size", int, "Examples per shard of both."),
    ("--noise noise", float, "Deviation, in each weight, of the noise of average-case sharpness."),
    ("--draws draws", int, "Pairs of draws of that noise."),
    ("--reach reach", float, "Slices go from -reach to +reach along directions of their own."),
    ("--points line_points", int, "Points of a line slice."),
    ("--plane-points plane_points", int, "Points along each axis of a plane slice."),
    ("--tolerance tolerance", float, "Interpolate slices to this share of the range of losses; 0: not at all."),
    ("--seed seed", int, "Of probes and directions."),
    ("--other-data other_data", bool, "Measure even where the task's data are not those that were trained on."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


def _existing(_: click.Context, __: click.Parameter, device: str) -> str:
    """A device that is not there is wrong usage in every command."""
    if device != "cpu":
        from msam.training import choose_device

        with _usage():
            choose_device(device)
    return device


device_option = click.option(
    "--device", default="cpu", show_default=True, callback=_existing, help="auto, cpu, cuda, cuda:1, mps, ..."
)
settings_option = click.option(
    "--set", "task_settings", multiple=True, metavar="NAME=VALUE", help="A setting of the task."
)


def options(rows: Iterable[Row]) -> Decorator:
    """An option for each row, and those that every command with such options has."""

    def decorate(command: Command) -> Command:
        command = device_option(json_option(command))
        for names, kind, default, text in reversed([*rows]):
            shape = {"is_flag": True} if kind is bool else {"type": kind, "show_default": True}
            command = click.option(*names.split(), **shape, default=default, help=text)(command)
        return command

    return decorate


def protocol_options(*names: str) -> Decorator:
    """The named settings of the protocol, all of them when none is named; the command gets a ``protocol``."""
    known = [(flags, kind, flags.split()[-1], text) for flags, kind, text in _PROTOCOL]
    chosen = [row for row in known if not names or row[2] in (*names, "other_data")]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def parsed(**arguments: Any) -> Any:
            with _usage():
                protocol = Protocol(**{name: arguments.pop(name) for _, _, name, _ in chosen})
            return command(protocol=protocol, **arguments)

        return options((flags, kind, getattr(Protocol(), name), text) for flags, kind, name, text in chosen)(parsed)

    return decorate


def _answer(content: Mapping[str, Any], shown: Iterable[Any], *, as_json: bool) -> None:
    """What a command found, on standard output."""
    from figures import terminal

    with contextlib.redirect_stdout(click.get_current_context().meta.get(__name__, sys.stdout)):
        terminal.answer(content, shown, as_json=as_json)


def _say(line: str) -> None:
    """What a person should know; on standard error, and by one of several processes."""
    if _is_first():
        click.echo(line, err=True)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


_ELSEWHERE = (
    settings_option,
    click.option("--model", help="Of --weights: model of the task."),
    click.option("--task", help="Of --weights: what they are measured on."),
    click.option("--weights", multiple=True, type=PATH, metavar="FILE[:ENTRY]", help="In place of a RUN."),
)


def runs_argument(number: int | None = 1, metavar: str = "RUN") -> Decorator:
    """So many RUNs, any number when None, or weights from elsewhere; the command gets ``runs``, which opens them."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def parsed(paths: Sequence[Path], weights: Sequence[Path], **arguments: Any) -> Any:
            about = {name: arguments.pop(name) for name in ("task", "model", "task_settings")}
            count = len(paths) + len(weights)
            if count != number if number else not count:
                wanted = f"{number or 'at least one'} in all"
                raise click.UsageError(f"name a RUN, or --weights FILE with --task; it takes {wanted}, got {count}")
            if bool(weights) != bool(about["task"]) or (any(about.values()) and not weights):
                raise click.UsageError("--weights FILE and --task, with its --model and --set, go together")
            return command(runs=lambda: _opened(paths, weights, sweeps=number is None, **about), **arguments)

        parsed = functools.reduce(lambda made, option: option(made), _ELSEWHERE, parsed)
        return click.argument("paths", metavar=metavar, nargs=-1, type=PATH)(parsed)

    return decorate


def _opened(paths: Sequence[Path], weights: Sequence[Path], *, sweeps: bool, task: str, **about: Any) -> list[Run]:
    from figures import terminal
    from msam.adoption import adopt
    from msam.run import Run
    from msam.sweep import open_runs
    from msam.tasks.given import settings_given

    runs = open_runs(paths) if sweeps else [Run.open(path) for path in paths]
    adopted: list[Run] = []
    if weights:
        with _usage():
            settings = settings_given(task, **about, data=None)
    for file in weights:
        with terminal.stages(silent=not _is_first()) as stage:
            like = next(iter(adopted), None)
            adopted.append(adopt(file, task, settings=settings, say=_say, like=like, report=stage))
    return runs + adopted


_PICTURED = ("density", "line", "plane")  # asked of each run for the pictures of the report


@click.group(cls=Sentences, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="msam-landscape")
def main() -> None:
    """Train with mSAM, measure the loss landscape, and put flatness next to generalization.

    A RUN is the directory that train writes, or an epoch in its checkpoints/; a SWEEP is what sweep writes.
    """
    os.environ["MPLBACKEND"] = "agg"  # figures go to files, whatever the user's notebooks draw with
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115  (it may have been closed)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± gets a question mark, not an error
        setattr(sys, name, stream)


def _config(*, task_settings: Sequence[str], model: str | None, data: Path | None, **entries: Any) -> TrainConfig:
    """A config from options named like its entries; all settings of the task, with their types and defaults."""
    from msam.config import TrainConfig
    from msam.tasks.given import settings_given

    return TrainConfig(
        settings=settings_given(entries["task"], task_settings=task_settings, model=model, data=data), **entries
    )


def _given() -> set[str]:
    """The settings that stand on the command line, by their names in the config."""
    ctx = click.get_current_context()
    given = {name for name in ctx.params if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    return given | ({"settings"} if given & {"model", "data", "task_settings"} else set())


def _trainable(configs: Sequence[TrainConfig]) -> Task:
    """Their task; finds out before anything is written or replaced what can be: whether options, data and model fit."""
    if "momentum" in _given() and configs[0].optimizer != "sgd":
        raise ValueError(f"--momentum is of sgd, and {configs[0].optimizer} does not take it; leave it out")
    from figures import terminal

    with terminal.stages() as stage:
        task = configs[0].load_task(stage)
    for config in {config.num_microbatches: config for config in configs}.values():
        config.require_trainable(task)
    task.require_startable(config.model(task))
    return task


@main.command(epilog="Example: msam train --task digits --model mlp --micro-batches 8 --rho 0.05 --out runs/a")
@options((*_VARIED, _SEED, *_TRAINING))
@settings_option
@click.option("--out", required=True, type=PATH, help="Run directory to write.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, with the settings it was begun with.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is there.")
@click.option("--deterministic", is_flag=True, help="Only kernels that give the same bits each time, on a GPU too.")
def train(out: Path, resume: bool, overwrite: bool, as_json: bool, device: str, **settings: Any) -> None:
    """Train one model and write a run directory: config, metrics and checkpoints."""
    from figures import terminal
    from msam.run import Run
    from msam.training import TrainingDivergedError, launched

    with launched(device) as (processes, place):
        if processes.is_first:
            run, task = _run_to_train(out, resume=resume, overwrite=overwrite, settings=settings)
        processes.wait()
        if not processes.is_first:
            run = Run.open(out)
            task = run.training.load_task()
        try:
            with terminal.stages(silent=not processes.is_first) as stage:
                _train(run, task, place, stage, processes)
        except TrainingDivergedError as error:
            raise click.ClickException(str(error)) from None
        if processes.is_first:
            _answer(run.outcome(), [terminal.run_table([run.outcome()])], as_json=as_json)


def _run_to_train(out: Path, *, resume: bool, overwrite: bool, settings: dict[str, Any]) -> tuple[Run, Task]:
    """A new run, or the one to go on with, and its task."""
    from msam.run import Run

    begun = Run.open(out) if resume and (out / "config.json").is_file() else None
    with _usage():
        if resume and overwrite:
            raise ValueError("choose one of --resume and --overwrite")
        config = _config(**settings)
        if begun is not None:
            config = begun.config_if_begun_with(config, _given())
        task = _trainable([config])
        return begun or Run.create(out, config, overwrite=overwrite), task


def _train(run: Run, task: Task, device: str, stage: Report, processes: Processes | None = None) -> None:
    """Train a run to its end; nothing, when it has been."""
    from msam.trained_on import require_same_data
    from msam.training import train as train_run

    if run.is_complete:  # while it is not, training itself finds out
        require_same_data(run, task, ordered=True, way_out="or train in another folder")
    else:
        progress = stage(f"{run.path}: {run.about}")
        train_run(task, run.training, run, device=device, processes=processes, progress=progress)


@main.command(epilog="Example: msam sweep --perturbation none,sam --micro-batches 1,2,4,8 --seeds 3 --out runs/sweep")
@options((*_LISTS, _SEEDS, *_TRAINING))
@settings_option
@click.option("--out", required=True, type=PATH, help="Directory to write, or to go on in.")
def sweep(seeds: int, out: Path, as_json: bool, device: str, **settings: Any) -> None:
    """Train all combinations of some settings. The same command again goes on where it stopped."""
    from figures import terminal
    from msam.sweep import Sweep, grid
    from msam.training import TrainingDivergedError

    with _usage():
        _require_one_process("a sweep", "; train each run under torchrun with msam train")
        axes = {name: settings.pop(name) for name in ("perturbation", "rho", "num_microbatches")}
        configs = grid(_config(**settings), axes | {"seed": range(seeds)})
        task = _trainable(configs)
        made = Sweep.create(out, configs)
    ended, failed = [], []
    with terminal.stages() as stage:
        for run in made.prepared():
            try:
                _train(run, task, device, stage)
                ended.append(run.outcome())
            except TrainingDivergedError as error:
                failed.append({"run": run.path, "error": str(error)})
    shown = [terminal.run_table(ended)] if ended else []
    _answer({"runs": ended, "failed": failed}, shown, as_json=as_json)
    if failed:
        raise click.ClickException("; ".join(f"{entry['run']}: {entry['error']}" for entry in failed))


def _require_one_process(what: str, advice: str = "; leave out torchrun") -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(f"{what} runs on one process{advice}")


def _measure(
    run: Run,
    protocol: Protocol,
    questions: Mapping[str, Question],
    device: str,
    as_json: bool,
    plan: Plan | None = None,
    *,
    sizes: Sequence[int] = (),
    surface: bool = False,
) -> None:
    """Ask one checkpoint some questions, of shards of some sizes, print the answers, draw each, and certify some."""
    from analyses.curvature import certificate
    from analyses.plan import Plan, verdict
    from analyses.subject import Subject
    from figures import draw, draw_surface, save, terminal
    from landscape.files import require_writable
    from msam.training import launched

    plan = plan or Plan()
    budget = plan.budget_for(questions)
    for file in (run.result_path(next(iter(questions)), "..."), run.figure_path(f"{next(iter(questions))}-....png")):
        require_writable(file)  # known before it is measured for minutes
    with launched(device) as (sharing, place), terminal.stages(silent=not sharing.is_first) as stage:
        subject = Subject(run, protocol, device=place, report=stage, budget=budget, sharing=sharing)
        if "eigenvalues" in questions:
            _require_pairs(protocol, subject)
        with _usage():
            for size in sizes:
                subject.objective.shards(size)  # refuses what is no size
        answers = {name: question(subject) for name, question in questions.items()}
        proofs = {question: certificate(subject, answers[question]) for question in plan.certified}
    if not sharing.is_first:
        return
    content: dict[str, Any] = {"run": run.path, "checkpoint": run.checkpoint, "about": subject.about}
    table = terminal.result_table([answer.result for answer in answers.values()])
    shown: list[Any] = [f"{run.checkpoint}: {subject.about}", table, ""]
    for question, answer in answers.items():
        figure = save(draw({run.name: answer.result}), run.figure_path(f"{answer.path.stem}.png"))
        files = {"result": answer.path, "figure": figure, "manifest": answer.result.manifest}
        if surface:
            drawn = draw_surface({run.name: answer.result})
            files["surface"] = save(drawn, run.figure_path(f"{answer.path.stem}-surface.png"))
        content[question] = answer.result.summary() | files | {"cut_short": answer.is_cut_short}
        late = f" (cut short by the budget of {plan.budget})" if answer.is_cut_short else ""
        places = ", ".join(str(place) for name, place in files.items() if name != "manifest")
        shown.append(f"{answer.result.title}{late}{answer.way}: {places}")
    for question, proof in proofs.items():
        content[question]["certificate"] = proof.result.summary() | {"result": proof.path}
        shown += ["", terminal.certificate_table(proof.result), f"{proof.result.title}: {proof.path}"]
    _answer(content, shown, as_json=as_json)
    failure = verdict({question: proof.result for question, proof in proofs.items()})
    if failure:
        raise click.ClickException(failure)


def _require_pairs(protocol: Protocol, subject: Subject) -> None:
    """No more eigenvalues than there are weights can be asked for."""
    from landscape.arguments import pairs_of

    with _usage():
        pairs_of(protocol.eigenvalues, subject.objective.space.dim)


def _forecast(run: Run, protocol: Protocol, device: str, as_json: bool) -> None:
    """Say what the spectrum of one checkpoint would cost; nothing is written."""
    from analyses import curvature
    from analyses.subject import Subject
    from figures import terminal
    from msam.training import launched

    with launched(device) as (sharing, place), terminal.stages(silent=not sharing.is_first) as stage:
        subject = Subject(run, protocol, device=place, report=stage, sharing=sharing)
        _require_pairs(protocol, subject)
        found, known = curvature.forecast(subject), curvature.answered(subject)
    if not sharing.is_first:
        return
    free = [f"measured before, and read back at no cost: {', '.join(known)}"] if known else []
    content = {"run": run.path, "checkpoint": run.checkpoint, "answered": known, "manifest": found.manifest}
    about, table = f"{run.checkpoint}: {subject.about}", terminal.forecast_table(found)
    _answer(content | found.summary(), [about, table, "", *found.remarks(), *free], as_json=as_json)


def _along(run: Run, protocol: Protocol, seconds: float | None, device: str, as_json: bool) -> None:
    """Measure the largest eigenvalue at every checkpoint of a run, print the course, and draw it."""
    from analyses.along_training import along_training
    from figures import draw, save, terminal
    from msam.training import launched

    with launched(device) as (sharing, place), terminal.stages(silent=not sharing.is_first) as stage:
        course = along_training(run, protocol, device=place, report=stage, seconds=seconds, sharing=sharing)
    if not sharing.is_first:
        return
    result = course.answer.result
    files = course.files | {"figure": run.figure_path(f"{course.answer.path.stem}.png")}
    save(draw({run.name: result}), files["figure"])
    shown = [course.about, terminal.result_table([result]), "", *course.remarks()]
    shown += (f"{kind}: {place}" for kind, place in files.items())
    _answer({"run": run.path} | course.content() | files, shown, as_json=as_json)
    if course.unreadable:
        raise click.ClickException(f"not every checkpoint could be measured: {'; '.join(course.unreadable.values())}")


@main.command(epilog="Example: msam spectrum runs/a -k 10 --certify")
@runs_argument()
@click.option("--certify", is_flag=True, help="Hold eigenvalues and trace against what they must agree with.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost in products, seconds and memory.")
@click.option("--budget", metavar="TIME", help="Do what can be done in this time, such as 60s, 2m or 1h.")
@click.option("--all-checkpoints", is_flag=True, help="The largest eigenvalue at every kept checkpoint, beside 2/lr.")
@protocol_options("eigenvalues", "tol", "trace_probes", "estimator", "density_steps", "split", "parameters", "seed")
def spectrum(runs: Opener, protocol: Protocol, as_json: bool, device: str, **ways: Any) -> None:
    """Largest Hessian eigenvalues with residuals, trace with its standard error, and spectral density."""
    from analyses.plan import Plan

    with _usage():
        plan = Plan(**ways, estimator=protocol.estimator, given=_given())
    (run,) = runs()
    if plan.dry_run:
        _forecast(run, protocol, device, as_json)
    elif plan.all_checkpoints:
        _along(run, protocol, plan.seconds, device, as_json)
    else:
        from analyses.measures import QUESTIONS

        questions = {name: QUESTIONS[name] for name in ("eigenvalues", "trace", "density")}
        _measure(run, protocol, questions, device, as_json, plan)


@main.command(epilog="Example: msam sharpness runs/a --rho 0.05 --radii 0.01,0.02,0.05,0.1")
@runs_argument()
@click.option("--radii", type=ListType(float), help="Worst-case sharpness at each of these radii, as a curve.")
@click.option("--microbatch-sizes", type=ListType(int), help="m-sharpness at each of these shard sizes, as a curve.")
@click.option("--noises", type=ListType(float), help="Average-case sharpness at each of these deviations, as a curve.")
@click.option("--audit", is_flag=True, help="How far measures move when the model is rescaled into the same function.")
@protocol_options("rho", "microbatch_size", "noise", "draws", "split", "parameters", "seed")
def sharpness(
    runs: Opener,
    radii: list[float] | None,
    microbatch_sizes: list[int] | None,
    noises: list[float] | None,
    audit: bool,
    protocol: Protocol,
    as_json: bool,
    device: str,
) -> None:
    """How much the loss rises around the weights: m-sharpness, in the worst case of a ball, on average under noise."""
    from analyses import surroundings
    from analyses.measures import QUESTIONS
    from landscape.climbing import require_radii
    from landscape.sharpness import require_sizes

    questions: dict[str, Question] = {name: QUESTIONS[name] for name in ("sharpness", "worst_case", "average_case")}
    with _usage():
        grids: tuple[tuple[str, Question, Any], ...] = (
            ("sharpness_over_sizes", surroundings.sharpness_over, microbatch_sizes and require_sizes(microbatch_sizes)),
            ("worst_case_over_radii", surroundings.worst_case_over, radii and require_radii(radii, "radii")),
            ("average_case_over_noises", surroundings.average_case_over, noises and require_radii(noises, "noises")),
        )
        questions |= {name: functools.partial(ask, grid=grid) for name, ask, grid in grids if grid}
    if audit:
        questions["audit"] = surroundings.audit
    (run,) = runs()
    _measure(run, protocol, questions, device, as_json, sizes=microbatch_sizes or ())


@main.command(name="slice", epilog="Example: msam slice runs/a --dims 2 --surface")
@runs_argument()
@click.option("--dims", type=click.IntRange(1, 2), default=1, show_default=True, help="A line or a plane.")
@click.option("--along", default="random", show_default=True, help="random, eigenvectors or trajectory.")
@click.option("--through", multiple=True, type=PATH, metavar="RUN", help="Another checkpoint it goes through, or two.")
@click.option("--surface", is_flag=True, help="Draw a plane as a surface, too.")
@protocol_options("reach", "line_points", "plane_points", "tolerance", "tol", "split", "parameters", "seed")
def slice_(
    runs: Opener,
    dims: int,
    along: str,
    through: tuple[Path, ...],
    surface: bool,
    protocol: Protocol,
    as_json: bool,
    device: str,
) -> None:
    """The loss and the accuracy of both splits along a line or over a plane through the weights.

    Along random filter-normalised directions, eigenvectors of the largest Hessian eigenvalues, the plane in which the
    training moved most, or through other checkpoints: one for a line, two for a plane. The same command again goes on
    where it was killed.
    """
    from analyses import surroundings
    from analyses.views import View
    from msam.adoption import run_path

    with _usage():
        if surface and dims == 1:
            raise ValueError("--surface draws a plane; ask for --dims 2")
        view = View(along=along, through=through, dims=dims)
    (run,) = runs()
    view = dataclasses.replace(view, through=[run_path(path, like=run, say=_say) for path in through])
    name, ask = ("line", surroundings.line) if dims == 1 else ("plane", surroundings.plane)
    _measure(run, protocol, {name: functools.partial(ask, view=view)}, device, as_json, surface=surface)


@main.command(name="path", epilog="Example: msam path runs/a runs/b --align --bezier")
@runs_argument(2, "RUN RUN")
@click.option(
    "--align", is_flag=True, help="The line after the second network's units are put in the first's order, too."
)
@click.option("--bezier", is_flag=True, help="A curve with one bend that is trained to stay low, too.")
@click.option(
    "--batch-norm",
    type=click.Choice(["recomputed", "frozen"]),
    default="recomputed",
    show_default=True,
    help="Statistics: of a pass through the training data at every point, or interpolated.",
)
@click.option("--points", type=click.IntRange(min=3), default=25, show_default=True, help="Evenly spaced ones.")
@click.option("--out", type=PATH, help="Figure to write: .png, .pdf or .svg.  [default: in the first run]")
@protocol_options("seed")
def path_(
    runs: Opener,
    batch_norm: str,
    out: Path | None,
    protocol: Protocol,
    as_json: bool,
    device: str,
    **asked: Any,
) -> None:
    """Loss and accuracy along a path between two checkpoints of one task, and the barrier on it."""
    from analyses import words
    from analyses.paths import PathPlan, paths_between, require_pair
    from analyses.subject import Subject
    from figures import draw, save, terminal
    from figures.style import format_of
    from landscape.files import require_writable
    from msam.training import launched

    with _usage():
        format_of(out or "path.png")
    first, second = runs()
    with _usage():
        require_pair(first, second)
    for file in (first.result_path("path", "..."), out or first.figure_path("path-....png")):
        require_writable(file)
    with launched(device) as (sharing, place), terminal.stages(silent=not sharing.is_first) as stage:
        task = first.load_task(stage)
        a, b = (
            Subject(run, protocol, device=place, report=stage, task=task, sharing=sharing) for run in (first, second)
        )
        answers = paths_between(a, b, PathPlan(frozen=batch_norm == "frozen", **asked))
    if not sharing.is_first:
        return
    results = {answer.result.curve: answer.result for answer in answers.values()}
    last = [*answers.values()][-1]
    figure = save(draw(results), out or first.figure_path(f"{last.path.stem}.png"))
    content: dict[str, Any] = {"runs": [first.path, second.path], "checkpoints": [first.checkpoint, second.checkpoint]}
    for name, answer in answers.items():
        content[name] = answer.result.summary() | {"result": answer.path, "manifest": answer.result.manifest}
    about = words.about([a, b])
    files = [f"{answer.result.curve}: {answer.path}" for answer in answers.values()] + [f"figure: {figure}"]
    shown = [f"{first.checkpoint} to {second.checkpoint}: {about}", terminal.result_table([*results.values()]), ""]
    _answer(content | {"about": about, "figure": figure}, [*shown, *files], as_json=as_json)


def _study(runs: Sequence[Run], protocol: Protocol, device: str, *more: str) -> tuple[list[Subject], RunTable]:
    """The table of some checkpoints under one protocol; more questions than it needs are asked by name."""
    _require_one_process("a study of several runs", "; measure each under torchrun with msam spectrum first")
    from analyses.comparison import compare as compare_subjects
    from analyses.measures import ask
    from analyses.subject import subjects_of
    from figures import terminal

    with terminal.stages() as stage:
        subjects = subjects_of(runs, protocol, device=device, report=stage)
        table = compare_subjects(subjects)
        for subject in subjects:
            for question in more:
                ask(subject, question)
    return subjects, table


def _beside(out: Path, kind: str) -> dict[str, Path]:
    """Where a study is written, found out before it is measured: what it is for, and its numbers beside that."""
    from landscape.files import require_writable

    files = {kind: out, "table": out.with_suffix(".csv"), "result": out.with_suffix(".npz")}
    for file in files.values():
        require_writable(file)
    return files


def _print_table(subjects: list[Subject], table: RunTable, as_json: bool, files: dict[str, Path]) -> None:
    """Print the table and what it is about, and save its numbers where they have a place."""
    from analyses import words
    from figures import terminal

    if files:
        table.save(files["result"])
        table.save_table(files["table"])
    lines = [words.about(subjects), terminal.table(*words.cells(table, words.headlines(table)))]
    lines += ["", *(f"{kind}: {file}" for kind, file in files.items())] if files else []
    _answer({"about": lines[0], "manifest": table.manifest, "files": files} | table.summary(), lines, as_json=as_json)


@main.command(epilog="Example: msam analyze runs/a runs/b")
@runs_argument(None, "RUN...")
@protocol_options()
def analyze(runs: Opener, protocol: Protocol, as_json: bool, device: str) -> None:
    """Ask every question of every run under one protocol, and print the table. RUN may be a sweep."""
    _print_table(*_study(runs(), protocol, device, *_PICTURED), as_json, {})


@main.command(epilog="Example: msam compare runs/a runs/b --out report.html")
@runs_argument(None, "RUN...")
@click.option("--out", default="report.html", show_default=True, type=PATH, help="HTML to write.")
@click.option("--note", default="", help="How the settings were chosen; printed in the report.")
@protocol_options()
def compare(runs: Opener, out: Path, note: str, protocol: Protocol, as_json: bool, device: str) -> None:
    """Measure runs under one protocol and write the comparison report, one HTML file. RUN may be a sweep."""
    from analyses.measures import ask
    from analyses.report import write_report
    from figures.interactive import turning
    from figures.report import pictures

    if out.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"the report is an HTML file; give --out a name ending in .html, not {out.name}")
    files = _beside(out, "report")
    subjects, table = _study(runs(), protocol, device, *_PICTURED)
    first = {group: subjects[table.groups.tolist().index(group)] for group in table.group_names}
    densities, lines, planes = ({g: ask(s, q).result for g, s in first.items()} for q in _PICTURED)
    drawn, turned = pictures(table, densities, lines, planes), turning(planes)
    write_report(out, table=table, subjects=subjects, note=note, protocol=protocol, pictures=drawn, surfaces=turned)
    _print_table(subjects, table, as_json, files)


@main.group(invoke_without_command=True, epilog="Example: msam tasks show digits")
@json_option
@click.pass_context
def tasks(ctx: click.Context, as_json: bool) -> None:
    """Tasks that are built in, and the settings of one, the user's own included."""
    if ctx.invoked_subcommand is None:
        from msam.tasks.built_in import TASKS

        about = {name: str(function.__doc__).strip().splitlines()[0] for name, function in TASKS.items()}
        own = "one of your own, a function that returns a msam.Task; it may lie in the working directory"
        lines = [f"{name}: {sentence}" for name, sentence in (about | {"module.path:function": own}).items()]
        _answer({"tasks": about}, [*lines, "", "msam tasks show NAME lists the settings of one"], as_json=as_json)


@tasks.command(cls=Answering, epilog="Example: msam tasks show digits")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """The settings of a task, for --set NAME=VALUE, with their types and defaults."""
    from figures import terminal
    from msam.tasks.registry import described

    with _usage():
        rows = described(name)
    cells = [["(to be given)" if cell is None else cell for cell in row.values()] for row in rows]
    shown = terminal.table(["setting", "type", "default", "what it is"], cells, words=4)
    _answer({"task": name, "settings": rows}, [shown], as_json=as_json)


@main.command(name="flatness-vs-m", epilog="Example: msam flatness-vs-m runs/sweep --out flatness.pdf")
@click.argument("path", metavar="SWEEP", type=PATH)
@click.option("--out", type=PATH, help="Figure to write: .png, .pdf or .svg.  [default: in the sweep]")
@protocol_options("rho", "microbatch_size", "tol", "trace_probes", "estimator", "split", "parameters", "seed")
def flatness_vs_m(path: Path, out: Path | None, protocol: Protocol, as_json: bool, device: str) -> None:
    """Plot flatness and test accuracy against the number of micro-batches."""
    from analyses.comparison import require_microbatches_alone
    from figures import draw, save
    from figures.style import format_of
    from msam.sweep import Sweep

    runs = Sweep.open(path).finished()
    require_microbatches_alone([run.training for run in runs], of=path)
    out = out or path / "flatness-vs-m.png"
    format_of(out)
    files = _beside(out, "figure")
    subjects, table = _study(runs, protocol, device)
    save(draw({"": table}), out)
    _print_table(subjects, table, as_json, files)


@main.command(epilog="Example: msam plot runs/a/results/line-*.npz runs/b/results/line-*.npz --out lines.pdf")
@click.argument("paths", metavar="RESULT...", nargs=-1, required=True, type=PATH)
@click.option("--out", default="figure.png", show_default=True, type=PATH, help="Figure: .png, .pdf or .svg.")
@json_option
def plot(paths: Sequence[Path], out: Path, as_json: bool) -> None:
    """Draw saved results of one kind in one figure. Results of different protocols are refused."""
    from figures import draw, save
    from landscape.manifest import require_comparable
    from landscape.results import Result, require_one_kind

    for path in paths:
        if paths.count(path) > 1:
            raise click.UsageError(f"{path} is named twice; name each result once")
    labels = [path.resolve().parent.parent.name if path.parent.name == "results" else path.stem for path in paths]
    names = labels if len(set(labels)) == len(labels) else [str(path) for path in paths]
    results = {name: Result.load(path) for name, path in zip(names, paths, strict=True)}
    require_one_kind(results)
    require_comparable({name: result.manifest for name, result in results.items()})
    save(draw(results), out)
    content = {"figure": out, "results": {name: result.summary() for name, result in results.items()}}
    _answer(content, [f"figure: {out}"], as_json=as_json)


if __name__ == "__main__":
    main()
