"""Results on a terminal: tables, JSON and bars."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from landscape.results import Result


def show(*tables: Table | str) -> None:
    """Print tables and lines on standard output; without a terminal they are not cut to its width."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for table in tables:
        console.print(table)


def result_table(results: Sequence[Result]) -> Table:
    """The headline numbers of results, each beside its uncertainty."""
    rows = [
        [line.quantity, number(line.value), "" if line.uncertainty is None else number(line.uncertainty), line.remark]
        for result in results
        for line in result.lines()
    ]
    made = table(["quantity", "value", "± uncertainty", ""], rows)
    made.columns[-1].justify = "left"
    return made


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> Table:
    """A table of ready cells; the first ``words`` columns are text, the others numbers, set to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < words else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float) -> str:
    """A number with the digits a person reads."""
    return "n/a" if math.isnan(value) else f"{value:.5g}"


def as_json(content: Mapping[str, Any]) -> str:
    """One JSON object; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_plain(content))


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress on standard error: a bar for each stage on a terminal, a line for each elsewhere.

    Yields:
        A function from the name of a stage to its ``progress(done, total)``.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def begin(stage: str) -> Callable[[int, int], None]:
            if not console.is_terminal:
                print(stage, file=sys.stderr, flush=True)
            for task in bars.task_ids:
                bars.remove_task(task)
            bar = bars.add_task(stage, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield begin


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
