"""Results on a terminal: tables, JSON and bars."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from landscape.answers import Audit, Certificate, Forecast
from landscape.results import Result

_NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "alloc_failed", "overflowed", "overflow when")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SUCH_PLACE = FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError | PermissionError


def show(*tables: Table | str) -> None:
    """Print tables and lines on standard output; without a terminal they are not cut to its width.

    A table that is wider than the terminal has its headings broken into lines; if that is not enough, each of its
    rows becomes a block of lines, of which the number has one to itself where even that is too wide. No number is ever
    cut.
    """
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for table in tables:
        if isinstance(table, Table):
            _print_table(console, table)
        else:
            console.print(table, soft_wrap=True)  # a path that is broken into lines cannot be copied


def result_table(results: Sequence[Result]) -> Table:
    """The headline numbers of results, each beside its uncertainty."""
    rows = [
        [line.quantity, number(line.value), "" if line.uncertainty is None else number(line.uncertainty), line.remark]
        for result in results
        for line in result.lines()
    ]
    made = table(["quantity", "value", "± uncertainty", ""], rows)
    made.columns[-1].justify, made.columns[-1].no_wrap, made.columns[-1].min_width = "left", False, None
    return made


def run_table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """How runs ended, one row each; with the validation set where all have one."""
    held_out = ["validation", "test"] if all("validation_loss" in run for run in outcomes) else ["test"]
    rows = []
    for run in outcomes:
        config = run["config"]
        losses = [f"{run[f'{split}_loss']:.4f}" for split in ("train", *held_out)]
        found = [run[f"{split}_accuracy"] for split in held_out]
        accuracies = ["-" if math.isnan(accuracy) else f"{100 * accuracy:.2f}" for accuracy in found]
        how = [str(run["run"]), run["method"], str(config["num_microbatches"]), str(config["seed"])]
        rows.append([*how, *losses, *accuracies])
    columns = ["run", "method", "micro-batches", "seed", *(f"{split} loss" for split in ("train", *held_out))]
    return table([*columns, *(f"{split} accuracy (%)" for split in held_out)], rows, words=2)


def certificate_table(certificate: Certificate) -> Table:
    """Each check of a certificate with its value, tolerance, verdict and seconds."""
    rows = [
        [
            check.name,
            number(check.value),
            number(check.tolerance),
            check.verdict,
            f"{check.seconds:.2f}",
            check.remark,
        ]
        for check in certificate.checks
    ]
    made = table([f"check of the {certificate.kind}", "value", "tolerance", "verdict", "seconds", ""], rows)
    made.columns[-1].justify, made.columns[-1].no_wrap, made.columns[-1].min_width = "left", False, None
    return made


def forecast_table(forecast: Forecast) -> Table:
    """Products, seconds and memory of each question, and of all."""
    typical, spread, most = forecast.total_seconds
    rows = [
        [
            row["question"],
            str(row["products"]),
            str(row["most_products"]),
            f"{number(row['seconds'])} ± {row['spread']:.1g}",
            number(row["most_seconds"]),
            size(row["memory"]),
        ]
        for row in forecast.to_frame().to_dict(orient="records")
    ]
    products = [str(int(column.sum())) for column in (forecast.products, forecast.most_products)]
    total = ["all", *products, f"{number(typical)} ± {spread:.1g}", number(most), size(float(forecast.memory.max()))]
    return table(["question", "products", "at most", "seconds", "at most", "memory"], [*rows, total])


def audit_table(audit: Audit) -> Table:
    """Each measure with its uncertainty, and its factor under each rescaling where it is not invariant."""
    rows = [
        [name, number(float(audit.before[i])), number(float(audit.before_stderrs[i])), *audit.words[i].tolist()]
        for i, name in enumerate(audit.measures.tolist())
    ]
    return table(["measure", "value", "± uncertainty", *audit.labels], rows)


def size(num_bytes: float) -> str:
    """Bytes in the unit that a person reads."""
    if math.isnan(num_bytes):
        return "unknown"
    power = min(3, max(0, int(math.log2(max(1.0, num_bytes)) // 10)))
    return f"{num_bytes / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> Table:
    """A table of ready cells; the first ``words`` columns are text, the others numbers, set to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        if i < words:
            made.add_column(column, overflow="fold")
        else:
            width = max(map(cell_len, [*column.splitlines(), *(row[i] for row in rows)]), default=0)
            made.add_column(column, justify="right", overflow="fold", no_wrap=True, min_width=width)
    for row in rows:
        made.add_row(*row)
    return made


def _print_table(console: Console, made: Table) -> None:
    columns = made.columns
    headings = [str(column.header) for column in columns]
    rows = list(zip(*([str(cell) for cell in column.cells] for column in columns), strict=True))
    words = max(1, next((i for i, column in enumerate(columns) if column.no_wrap), len(columns)))
    if _least_width(console, made) > console.width:
        for column, heading in zip(columns[words:], headings[words:], strict=True):
            wide = max(map(cell_len, [*heading.split(), *map(str, column.cells)]), default=1)
            column.header = textwrap.fill(heading, max(1, wide), break_on_hyphens=False)
            column.min_width = wide if column.no_wrap else None
    if _least_width(console, made) <= console.width:
        console.print(made)
        return
    most = max(map(cell_len, headings[words:]), default=0)
    for row in rows:
        console.print("  ".join(row[:words]), soft_wrap=True)
        for heading, cell in zip(headings[words:], row[words:], strict=True):
            line = f"  {heading.ljust(most)}  {cell}"
            if cell and cell_len(line) <= console.width:
                console.print(line)
            elif cell:  # each on a line of its own; a number that has spaces in it is broken at these
                console.print(f"  {heading.strip()}") if heading.strip() else None
                console.print(f"  {cell}")


def _least_width(console: Console, made: Table) -> int:
    """The columns that a table needs with its words broken into lines and its numbers whole."""
    return Measurement.get(console, console.options.update_width(10_000), made).minimum


def number(value: float) -> str:
    """A number with the digits a person reads."""
    return "n/a" if math.isnan(value) else f"{value:.5g}"


def answer(content: Mapping[str, Any], shown: Iterable[Table | str], *, as_json: bool) -> None:
    """What a command found: one JSON object on standard output, or what a person reads."""
    if as_json:
        print(to_json(content), flush=True)
    else:
        show(*shown)


def to_json(content: Mapping[str, Any]) -> str:
    """One JSON object; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_plain(content))


def sentence(error: Exception) -> str:
    """An error as one sentence: what was wrong, the value, a way out; other programs' errors are translated."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if _is_of_memory(error):
        size = re.search(r"allocate ([\d.]+ \w+)", text)
        wanted = f" (it asked for {size[1]})" if size else ""
        return (
            f"there is not enough memory{wanted}; choose a smaller model, fewer examples or points, or another --device"
        )
    if isinstance(error, RuntimeError) and "without overflow" in text:
        return "a number is too large for the type of the weights; choose a smaller radius, reach or learning rate"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename or "the output"
        advice = "Make room, or choose another folder." if error.errno in _NO_ROOM else "Choose another name or folder."
        return f"cannot read or write {where}: {error.strerror.lower()}. {advice}"
    known = isinstance(error, ValueError | TypeError | OSError)
    return text if known else f"{type(error).__name__}: {text} (a defect: MSAM_TRACEBACK=1 shows where)"


def is_bad_input(error: Exception) -> bool:
    """Whether what a command was given will not do, be it a setting, a file or a task; else it failed by itself.

    >>> is_bad_input(ValueError("rho must be positive")), is_bad_input(OSError(28, "full"))
    (True, False)
    """
    return isinstance(error, ValueError | TypeError | _NO_SUCH_PLACE) and not _is_of_memory(error)


def _is_of_memory(error: Exception) -> bool:
    text = (str(error) or type(error).__name__).splitlines()[0].lower()
    from_torch = isinstance(error, RuntimeError | TypeError) and any(words in text for words in _NO_MEMORY)
    return from_torch or isinstance(error, MemoryError)


@contextlib.contextmanager
def stages(*, silent: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress on standard error: a bar for each stage on a terminal, a line for each elsewhere.

    Args:
        silent: show nothing, as one of several processes that another speaks for.

    Yields:
        A function from the name of a stage to its ``progress(done, total)``.
    """
    console = Console(stderr=True, quiet=silent)
    with Progress(
        *_bar_columns(console.width), console=console, expand=True, transient=True, disable=not console.is_terminal
    ) as bars:

        def begin(stage: str) -> Callable[[int, int], None]:
            if not (console.is_terminal or silent):
                print(stage, file=sys.stderr, flush=True)
            for task in bars.task_ids:
                bars.remove_task(task)
            bar = bars.add_task(stage, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield begin


def _bar_columns(width: int) -> list[ProgressColumn]:
    """The parts of a progress bar; where the terminal is narrow, the name of the stage is cut and no number is."""
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    numbers = MofNCompleteColumn(table_column=Column(no_wrap=True))
    if width < 60:
        return [name, numbers]
    return [name, BarColumn(bar_width=20), numbers, TimeRemainingColumn(table_column=Column(no_wrap=True))]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
