from __future__ import annotations

import errno
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from figures import terminal
from landscape.answers import TraceEstimate

KINDS = ("eigenvalues", "trace", "density", "sharpness", "line", "plane")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.0, "1"),
        (3.14159265, "3.1416"),
        (-0.000012345678, "-1.2346e-05"),
        (123456.0, "1.2346e+05"),
        (0.0, "0"),
        (math.nan, "n/a"),
        (math.inf, "inf"),
    ],
)
def test_a_number_has_five_digits_and_one_that_is_unknown_says_so(value, written):
    assert terminal.number(value) == written


def test_json_has_null_for_what_it_cannot_write():
    text = terminal.to_json({"a": math.nan, "b": [math.inf, (-math.inf, 1.5)], "c": {"d": np.float64("nan")}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, [None, 1.5]], "c": {"d": None}}


def test_json_has_paths_as_text_and_all_else_as_it_is():
    content = {"path": Path("a/b"), "n": 3, "text": "λ", "yes": True, "none": None, "x": np.float64(0.5), 1: 2}
    expected = {"path": "a/b", "n": 3, "text": "λ", "yes": True, "none": None, "x": 0.5, "1": 2}
    assert json.loads(terminal.to_json(content)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_summary_of_every_kind_of_result_is_json(kind, make):
    (result,) = make(kind, ["a"]).values()
    json.loads(terminal.to_json(result.summary()), parse_constant=pytest.fail)


@pytest.mark.parametrize("kind", ["micro-batches", "groups"])
def test_the_summary_of_a_table_is_json(kind, make):
    (table,) = make(kind, ["a", "b"]).values()
    assert len(json.loads(terminal.to_json(table.summary()))["runs"]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_results_has_a_row_for_each_line(kind, make):
    results = list(make(kind, ["a", "b"]).values())
    made = terminal.result_table(results)
    lines = [line for result in results for line in result.lines()]
    assert made.row_count == len(lines)
    quantities, values, *_ = ([*column.cells] for column in made.columns)
    assert quantities == [line.quantity for line in lines]
    assert values == [terminal.number(line.value) for line in lines]


def test_an_unknown_uncertainty_is_not_a_missing_one(make):
    unknown = TraceEstimate(estimate=1.0, stderr=math.nan, samples=np.ones(1))
    (line,) = make("line", ["a"]).values()
    uncertainties = [*terminal.result_table([unknown, line]).columns[2].cells]
    assert uncertainties == ["n/a", "", ""]


def test_results_that_did_not_converge_are_marked_on_the_screen(make, capsys):
    (result,) = make("eigenvalues", ["a"]).values()
    terminal.show(terminal.result_table([result]))
    lines = capsys.readouterr().out.splitlines()
    assert ["NOT CONVERGED" in line for line in lines[1:]] == (~result.converged).tolist()


def test_without_a_terminal_long_lines_are_not_cut(capsys):
    cells = ["x" * 120, "[bold]not markup[/bold]"]
    terminal.show(terminal.table(["a", "b"], [cells]), "a line")
    out = capsys.readouterr().out
    assert all(cell in out for cell in cells)
    assert "a line\n" in out


def test_without_a_terminal_progress_is_a_line_for_each_stage_on_standard_error(capsys):
    with terminal.stages() as stage:
        stage("first")(1, 2)
        stage("second")(2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split() == ["first", "second"]


WIDE_HEADINGS = ["training", "test accuracy (%)", "largest Hessian eigenvalue", "Hessian trace", "m-sharpness", "gap"]
WIDE_ROWS = [[f"mSAM, {2**i} micro-batches", *(f"{i}.{j}53 (2.{i}56–2.{j}36)" for j in range(5))] for i in range(6)]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "25")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal.show(terminal.table(WIDE_HEADINGS, WIDE_ROWS))
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    for row in WIDE_ROWS:
        for cell in row[1:]:
            assert any(cell in line for line in lines), cell
    in_blocks = any(line.split() == [WIDE_HEADINGS[-1], *WIDE_ROWS[0][-1].split()] for line in lines)
    assert in_blocks is (width < 120)
    assert len(lines) == (36 if in_blocks else len(lines))


def on_a_terminal(width, monkeypatch, capsys, *shown):
    """The lines that are printed on a terminal of some width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "25")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal.show(*shown)
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [12, 16, 24, 30, 40, 50])
def test_numbers_are_whole_on_terminals_too_narrow_for_a_block(width, capsys, monkeypatch, make):
    rows = [[f"mSAM, {2**i} micro-batches", *(f"{i}.{j}53" for j in range(5))] for i in range(3)]
    (result,) = make("eigenvalues", ["a"]).values()
    shown = (terminal.table(WIDE_HEADINGS, rows), terminal.result_table([result]))
    lines = on_a_terminal(width, monkeypatch, capsys, *shown)
    wholes = [*(cell for row in rows for cell in row[1:]), *(terminal.number(line.value) for line in result.lines())]
    assert all(any(re.search(rf"(^|\s){re.escape(cell)}(\s|$)", line) for line in lines) for cell in wholes), lines
    assert all(len(line) <= width for line in lines if line.startswith("  "))
    assert any(line.split() == ["m-sharpness", "0.353"] for line in lines) is (width >= 40)


def test_a_path_is_not_broken_into_lines(capsys, monkeypatch):
    path = "runs/" + "a" * 60 + "/results/trace-0123456789abcdef.npz"
    assert on_a_terminal(20, monkeypatch, capsys, f"trace: {path}") == [f"trace: {path}"]


@pytest.mark.parametrize("width", [12, 20, 59, 60, 80, 120])
@pytest.mark.parametrize("name", ["a", "runs/sweep/run-07: mSAM, 16 micro-batches, seed 12" * 3])
def test_the_numbers_of_a_progress_bar_are_whole(name, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = Progress(*terminal._bar_columns(width), console=console, expand=True)
    bars.update(bars.add_task(name, total=60), completed=57)
    console.print(bars.get_renderable())
    (line,) = [line for line in console.file.getvalue().splitlines() if line.strip()]
    assert len(line) <= width
    assert re.search(r"57/60( -:--:--)?\s*$", line)


CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free."
CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("rho must be positive; got -1"), "rho must be positive; got -1"),
        (ValueError("first line\nframe #0: 0x0"), "first line"),
        (ValueError(), "ValueError"),
        (RuntimeError("odd"), "RuntimeError: odd (a defect: MSAM_TRACEBACK=1 shows where)"),
        (MemoryError(), "there is not enough memory; choose a smaller model"),
        (
            MemoryError("Unable to allocate 7.28 TiB for an array"),
            "there is not enough memory (it asked for 7.28 TiB);",
        ),
        (RuntimeError(CUDA), "there is not enough memory (it asked for 2.00 GiB); choose"),
        (RuntimeError(f"{CPU}256 bytes. Error code 12"), "there is not enough memory (it asked for 256 bytes);"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
            "(it asked for 9 bytes)",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "there is not enough memory; choose"),
        (TypeError('failed to unpack "Overflow when unpacking long'), "there is not enough memory; choose"),
        (
            RuntimeError("value cannot be converted to type float without overflow"),
            "a number is too large for the type",
        ),
        (OSError(errno.ENOSPC, "No space left", "a"), "cannot read or write a: no space left. Make room, or choose"),
        (OSError(errno.EISDIR, "Is a directory", "a"), "cannot read or write a: is a directory. Choose another name"),
        (OSError(errno.EACCES, "Permission denied"), "cannot read or write the output: permission denied."),
        (FileNotFoundError("there is no run at a"), "there is no run at a"),
    ],
)
def test_an_error_is_one_sentence(error, words):
    assert terminal.sentence(error).startswith(words) or words in terminal.sentence(error)
    assert "\n" not in terminal.sentence(error)


def test_bad_input_is_wrong_usage_and_what_the_machine_lacks_is_a_failure():
    bad = [ValueError("a"), TypeError("a"), FileNotFoundError("a"), OSError(errno.EISDIR, "Is a directory", "a")]
    failed = [RuntimeError("odd"), RuntimeError(CUDA), TypeError("Overflow when unpacking long"), MemoryError()]
    failed += [OSError(errno.ENOSPC, "No space left", "a"), ConnectionError("another process has died")]
    assert all(terminal.is_bad_input(error) for error in bad)
    assert not any(terminal.is_bad_input(error) for error in failed)
