from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

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
