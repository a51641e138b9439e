"""The command line: parse, call, print, save. torch is imported inside the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyses.protocol import Protocol

if TYPE_CHECKING:
    from analyses.measures import Subject
    from analyses.results import RunTable
    from msam.config import TrainConfig
    from msam.run import Run

Command = Callable[..., Any]
RUNS = click.argument("paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
ONE_RUN = click.argument("path", metavar="RUN", type=click.Path(path_type=Path))


class Sentences(click.Group):
    """Commands whose errors are one sentence, and whose exit status is 0, 1 (it failed) or 2 (wrong usage)."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; MSAM_TRACEBACK=1 lets errors through as they are."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("always", message="micro-batches are not computed")
                warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            raise click.ClickException(
                "interrupted; what was finished is kept. Go on with the same command (for train: with --resume)."
            ) from None
        except Exception as error:
            if os.environ.get("MSAM_TRACEBACK"):
                raise
            raise click.ClickException(_sentence(error)) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename or "the output"
        return f"cannot read or write {where}: {error.strerror.lower()}. Choose another folder, or make room."
    known = isinstance(error, ValueError | TypeError | OSError)
    return str(error) if known else f"{type(error).__name__}: {error} (a defect: MSAM_TRACEBACK=1 shows where)"


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Settings that make no sense are wrong usage."""
    try:
        yield
    except (ValueError, FileExistsError) as error:
        raise click.UsageError(str(error)) from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
device_option = click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ...")

_TRAINING: tuple[tuple[str, Any, Any, str], ...] = (
    ("--task", str, "digits", "What to learn."),
    ("--epochs", int, 20, "Passes over the training data."),
    ("--batch-size", int, 100, "Examples per step."),
    ("--optimizer", str, "sgd", "Base optimizer: sgd or adamw."),
    ("--lr", float, 0.1, "Learning rate at the start."),
    ("--momentum", float, 0.9, "Of sgd."),
    ("--weight-decay", float, 0.0, "Of the base optimizer."),
    ("--schedule", str, "cosine", "cosine or constant."),
    ("--execution", str, "one-by-one", "Of the micro-batches: one-by-one, or layerwise (faster where it applies)."),
    ("--checkpoint-every", int, 0, "Keep the weights of every so many epochs; 0: the last only."),
)
_PROTOCOL: dict[str, tuple[str, type, str]] = {
    "split": ("--split", str, "Data whose landscape is measured: train or test."),
    "eigenvalues": ("-k", int, "Number of largest eigenvalues."),
    "tol": ("--tol", float, "Relative tolerance on their residuals."),
    "trace_probes": ("--probes", int, "Random vectors for the trace."),
    "density_steps": ("--steps", int, "Lanczos steps for the spectral density."),
    "rho": ("--rho", float, "Radius of the ascent of m-sharpness."),
    "microbatch_size": ("--microbatch-size", int, "Examples per shard of m-sharpness."),
    "reach": ("--reach", float, "Slices go from -reach to +reach."),
    "line_points": ("--points", int, "Points of a line slice."),
    "plane_points": ("--plane-points", int, "Points along each axis of a plane slice."),
    "seed": ("--seed", int, "Of probes and directions."),
}


def training_options(command: Command) -> Command:
    """The settings that train and sweep share."""
    command = device_option(json_option(command))
    command = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the task.")(
        command
    )
    command = click.option("--model", help="Model of the task: mlp, cnn-bn or cnn-gn for digits.")(command)
    for flag, kind, default, text in reversed(_TRAINING):
        command = click.option(flag, type=kind, default=default, show_default=True, help=text)(command)
    return command


def protocol_options(*names: str) -> Callable[[Command], Command]:
    """The named settings of the protocol, all of them when none is named; the command gets a ``protocol``."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def parsed(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in _PROTOCOL if name in arguments}
            with _usage():
                protocol = Protocol(**given)
            return command(protocol=protocol, **arguments)

        decorated: Command = device_option(json_option(parsed))
        for name in reversed(names or tuple(_PROTOCOL)):
            flag, kind, text = _PROTOCOL[name]
            default = getattr(Protocol(), name)
            decorated = click.option(flag, name, type=kind, default=default, show_default=True, help=text)(decorated)
        return decorated

    return decorate


@click.group(cls=Sentences, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="msam-landscape")
def main() -> None:
    """Train with mSAM, measure the loss landscape, and put flatness next to generalization."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± gets a question mark, not an error


def _config(*, settings: Sequence[str], model: str | None, **entries: Any) -> TrainConfig:
    """A config from options named like its entries; all settings of the task, with their types and defaults."""
    from msam.config import TrainConfig
    from msam.tasks import complete_settings

    given = dict(entry.partition("=")[::2] for entry in settings)
    if not all("=" in entry for entry in settings):
        raise ValueError(f"--set takes NAME=VALUE; got {', '.join(settings)}")
    chosen = given if model is None else given | {"model": model}
    return TrainConfig(settings=complete_settings(entries["task"], chosen), **entries)


@main.command(epilog="Example: msam train --task digits --model mlp --micro-batches 8 --rho 0.05 --out runs/a")
@click.option("--perturbation", default="sam", show_default=True, help="none, sam or asam.")
@click.option("--rho", type=float, default=0.05, show_default=True, help="Radius of the perturbation.")
@click.option(
    "--micro-batches", "num_microbatches", type=int, default=1, show_default=True, help="Per batch; 1 is SAM."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, data order and the model's noise.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run directory to write.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, with the settings it was begun with.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is there.")
@training_options
@click.pass_context
def train(
    ctx: click.Context, /, out: Path, resume: bool, overwrite: bool, as_json: bool, device: str, **options: Any
) -> None:
    """Train one model and write a run directory: config, metrics and checkpoints."""
    from msam.run import Run
    from msam.training import choose_device

    going_on = resume and (out / "config.json").is_file()
    with _usage():
        config = _config(**options)
        choose_device(device)
        if resume and overwrite:
            raise ValueError("choose one of --resume and --overwrite")
        if not going_on:
            config.load_task()  # before anything is written or replaced
            run = Run.create(out, config, overwrite=overwrite)
    if going_on:
        run = Run.open(out)
        _require_same_settings(ctx, run.config, config)
    _train([run], device, as_json)


def _require_same_settings(ctx: click.Context, begun: TrainConfig, asked: TrainConfig) -> None:
    """Options given beside --resume must be those the run was begun with."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    for name in given & {entry.name for entry in dataclasses.fields(begun)} - {"settings"}:
        if getattr(begun, name) != getattr(asked, name):
            raise click.UsageError(f"the run was begun with {name} {getattr(begun, name)}, not {getattr(asked, name)}")
    if given & {"settings", "model"} and begun.settings != asked.settings:
        raise click.UsageError(f"the run was begun with the task settings {dict(begun.settings)}")


def _train(runs: Iterable[Run], device: str, as_json: bool) -> None:
    """Train what is not trained yet, and print how each run ended."""
    from figures import terminal
    from msam.training import TrainingDivergedError, train as train_run

    rows, ended, failures = [], [], []
    with terminal.stages() as stage:
        for run in runs:
            config = run.config
            title = f"{run.path}: {config.method}, {config.num_microbatches} micro-batches, seed {config.seed}"
            try:
                if not run.is_complete:
                    train_run(config.load_task(), config, run, device=device, progress=stage(title))
            except TrainingDivergedError as error:
                failures.append(f"{run.path}: {error}")
                continue
            last = run.metrics()[-1]
            ended.append({"run": run.path, "checkpoint": run.checkpoint, "config": config.to_dict(), **last})
            numbers = [f"{last['train_loss']:.4f}", f"{last['test_loss']:.4f}", f"{100 * last['test_accuracy']:.2f}"]
            rows.append([str(run.path), config.method, str(config.num_microbatches), str(config.seed), *numbers])
    columns = ["run", "method", "micro-batches", "seed", "train loss", "test loss", "test accuracy (%)"]
    if as_json:
        click.echo(
            terminal.as_json(ended[0] if len(ended) == 1 and not failures else {"runs": ended, "failed": failures})
        )
    elif rows:
        terminal.show(terminal.table(columns, rows, words=2))
    if failures:
        raise click.ClickException("; ".join(failures))


@main.command(epilog="Example: msam sweep --perturbation none,sam --micro-batches 1,2,4,8 --seeds 3 --out runs/sweep")
@click.option("--perturbation", default="sam", show_default=True, help="List of none, sam and asam.")
@click.option("--rho", default="0.05", show_default=True, help="List of radii.")
@click.option("--micro-batches", "num_microbatches", default="1,2,4,8", show_default=True, help="List of numbers.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0, 1, ... of each setting."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory to write, or to go on in.")
@training_options
def sweep(
    perturbation: str,
    rho: str,
    num_microbatches: str,
    seeds: int,
    out: Path,
    as_json: bool,
    device: str,
    **options: Any,
) -> None:
    """Train all combinations of some settings. The same command again goes on where it stopped."""
    from msam.sweep import Sweep, grid
    from msam.training import choose_device

    with _usage():
        axes = {
            "perturbation": perturbation.split(","),
            "rho": _numbers(rho, float, "--rho"),
            "num_microbatches": _numbers(num_microbatches, int, "--micro-batches"),
            "seed": list(range(seeds)),
        }
        configs = grid(_config(**options), axes)
        choose_device(device)
        for config in configs:
            config.load_task()
        made = Sweep.create(out, configs)
    _train(made.prepared(), device, as_json)


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes a list such as 1,2,4; got {text!r}") from None


def _measure(path: Path, protocol: Protocol, questions: Sequence[str], device: str, as_json: bool) -> None:
    """Ask one checkpoint some questions, print the answers, and draw each."""
    from analyses.measures import Subject
    from figures import draw, save, terminal
    from msam.run import Run

    with terminal.stages() as stage:
        subject = Subject(Run.open(path), protocol, device=device, report=stage)
        answers = {question: getattr(subject, question)() for question in questions}
    run = subject.run
    pictures = {
        question: save(draw({run.name: answer.result}), run.figure_path(f"{answer.path.stem}.png"))
        for question, answer in answers.items()
    }
    if as_json:
        content: dict[str, Any] = {"run": run.path, "checkpoint": run.checkpoint}
        for question, answer in answers.items():
            files = {"result": answer.path, "figure": pictures[question]}
            content[question] = answer.result.summary() | files | {"manifest": answer.result.manifest}
        click.echo(terminal.as_json(content))
        return
    terminal.show(f"{run.checkpoint}: {subject.about}")
    terminal.show(terminal.result_table([answer.result for answer in answers.values()]), "")
    for question, answer in answers.items():
        terminal.show(f"{answer.result.title}: {answer.path}, {pictures[question]}")


@main.command(epilog="Example: msam spectrum runs/a -k 10")
@ONE_RUN
@protocol_options("eigenvalues", "tol", "trace_probes", "density_steps", "split", "seed")
def spectrum(path: Path, protocol: Protocol, as_json: bool, device: str) -> None:
    """Largest Hessian eigenvalues with residuals, trace with its standard error, and spectral density."""
    _measure(path, protocol, ("eigenvalues", "trace", "density"), device, as_json)


@main.command(epilog="Example: msam sharpness runs/a --rho 0.05 --microbatch-size 32")
@ONE_RUN
@protocol_options("rho", "microbatch_size", "split")
def sharpness(path: Path, protocol: Protocol, as_json: bool, device: str) -> None:
    """m-sharpness: the mean rise of the loss over shards of the data, each perturbed on its own."""
    _measure(path, protocol, ("sharpness",), device, as_json)


@main.command(name="slice", epilog="Example: msam slice runs/a --dims 2 --reach 0.5")
@ONE_RUN
@click.option("--dims", type=click.IntRange(1, 2), default=1, show_default=True, help="A line or a plane.")
@protocol_options("reach", "line_points", "plane_points", "split", "seed")
def slice_(path: Path, dims: int, protocol: Protocol, as_json: bool, device: str) -> None:
    """The loss along a line or over a plane of filter-normalised random directions."""
    _measure(path, protocol, ("line",) if dims == 1 else ("plane",), device, as_json)


def _study(paths: Sequence[Path], protocol: Protocol, device: str) -> tuple[list[Subject], RunTable]:
    """All questions asked of all checkpoints, and the table they make."""
    from analyses.comparison import compare as compare_subjects
    from analyses.measures import Subject
    from figures import terminal
    from msam.sweep import open_runs

    with terminal.stages() as stage:
        subjects = [Subject(run, protocol, device=device, report=stage) for run in open_runs(paths)]
        table = compare_subjects(subjects)
        for subject in subjects:
            subject.density(), subject.line(), subject.plane()
    return subjects, table


def _print_table(table: RunTable, as_json: bool, files: dict[str, Path]) -> None:
    from analyses import words
    from figures import terminal

    if as_json:
        click.echo(terminal.as_json(table.summary() | {"manifest": table.manifest, "files": files}))
        return
    terminal.show(terminal.table(*words.cells(table, words.HEADLINES)))
    if files:
        terminal.show("", *(f"{kind}: {file}" for kind, file in files.items()))


@main.command(epilog="Example: msam analyze runs/a runs/b")
@RUNS
@protocol_options()
def analyze(paths: Sequence[Path], protocol: Protocol, as_json: bool, device: str) -> None:
    """Ask every question of every run under one protocol, and print the table. RUN may be a sweep."""
    _, table = _study(paths, protocol, device)
    _print_table(table, as_json, {})


@main.command(epilog="Example: msam compare runs/a runs/b --out report.html")
@RUNS
@click.option("--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="HTML to write.")
@click.option("--note", default="", help="How the settings were chosen; printed in the report.")
@protocol_options()
def compare(paths: Sequence[Path], out: Path, note: str, protocol: Protocol, as_json: bool, device: str) -> None:
    """Measure runs under one protocol and write the comparison report, one HTML file. RUN may be a sweep."""
    from analyses.report import write_report
    from figures.report import pictures

    if out.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"the report is an HTML file; give --out a name ending in .html, not {out.name}")
    subjects, table = _study(paths, protocol, device)
    first = {group: subjects[table.groups.tolist().index(group)] for group in table.group_names}
    drawn = pictures(
        table, *({g: getattr(s, q)().result for g, s in first.items()} for q in ("density", "line", "plane"))
    )
    files = {"report": out, "table": out.with_suffix(".csv"), "result": out.with_suffix(".npz")}
    write_report(out, table=table, subjects=subjects, note=note, protocol=protocol, pictures=drawn)
    table.save(files["result"])
    _write_csv(table, files["table"])
    _print_table(table, as_json, files)


@main.command(name="flatness-vs-m", epilog="Example: msam flatness-vs-m runs/sweep --out flatness.pdf")
@click.argument("path", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Figure to write.  [default: in the sweep]")
@protocol_options("rho", "microbatch_size", "tol", "trace_probes", "split", "seed")
def flatness_vs_m(path: Path, out: Path | None, protocol: Protocol, as_json: bool, device: str) -> None:
    """Plot flatness and test accuracy against the number of micro-batches."""
    from analyses.comparison import compare as compare_subjects
    from analyses.measures import Subject
    from figures import draw, save, terminal
    from msam.sweep import Sweep

    with terminal.stages() as stage:
        subjects = [Subject(run, protocol, device=device, report=stage) for run in Sweep.open(path).finished()]
        table = compare_subjects(subjects)
    if not table.varies_in_microbatches_alone:
        raise click.ClickException(
            f"the runs of {path} do not differ in the number of micro-batches alone; there are: "
            f"{'; '.join(table.group_names)}. Compare them with msam compare."
        )
    out = out or path / "flatness-vs-m.png"
    files = {
        "figure": save(draw({"": table}), out),
        "table": out.with_suffix(".csv"),
        "result": out.with_suffix(".npz"),
    }
    table.save(files["result"])
    _write_csv(table, files["table"])
    _print_table(table, as_json, files)


def _write_csv(table: RunTable, path: Path) -> None:
    from landscape.files import atomic_write

    with atomic_write(path) as stream:
        stream.write(table.to_frame().to_csv(index=False).encode())


@main.command(epilog="Example: msam plot runs/a/results/line-*.npz runs/b/results/line-*.npz --out lines.pdf")
@click.argument("paths", metavar="RESULT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", default="figure.png", show_default=True, type=click.Path(path_type=Path), help=".png, .pdf, .svg"
)
@json_option
def plot(paths: Sequence[Path], out: Path, as_json: bool) -> None:
    """Draw saved results of one kind in one figure. Results of different protocols are refused."""
    from figures import draw, save, terminal
    from landscape.manifest import require_comparable
    from landscape.results import Result

    labels = [path.resolve().parent.parent.name if path.parent.name == "results" else path.stem for path in paths]
    names = labels if len(set(labels)) == len(labels) else [str(path) for path in paths]
    results = {name: Result.load(path) for name, path in zip(names, paths, strict=True)}
    require_comparable({name: result.manifest for name, result in results.items()})
    save(draw(results), out)
    if as_json:
        click.echo(terminal.as_json({"figure": out, "results": {n: r.summary() for n, r in results.items()}}))
    else:
        terminal.show(f"figure: {out}")
