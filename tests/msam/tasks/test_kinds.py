"""Settings of tasks in their types: from texts of a command line, from a config, and as the function takes them."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Sequence
from pathlib import Path, PosixPath
from typing import Literal

import pytest

from msam.tasks.kinds import converted, kind_in_words, kind_of, taken

Auto = Literal["auto"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int | float, "3", 3),
        (int | float, "0.5", 0.5),
        (float | int, "3", 3.0),
        (int | str, "abc", "abc"),
        (str | int, "3", "3"),
        (Auto | float, "0.5", 0.5),
        (float | Auto | None, "auto", "auto"),
        (float | Auto | None, "None", None),
        (Literal[True, "auto"], "true", True),
        (Literal[1, 2], "2", 2),
        (Literal[None, "a"], "none", None),
        (bool, "no", False),
        (bool | None, "none", None),
        (PosixPath, "a/b", "a/b"),
        (Path | None, "a/b", "a/b"),
        (list[int], "1, 2,3", [1, 2, 3]),
        (tuple[float, ...], "1", [1.0]),
        (tuple[int, str], "1,x", [1, "x"]),
        (Sequence[bool], "true,no", [True, False]),
        (list[Auto | int], "auto,3", ["auto", 3]),
        (tuple[int, ...], "", []),
        (tuple[int, ...] | None, "none", None),
        (typing.List[int], "1,2", [1, 2]),  # noqa: UP006  (as older programs write it)
    ],
)
def test_a_text_becomes_the_first_of_the_types_that_it_can_be_and_stays_that(kind, text, value):
    found = converted("x", text, kind)
    assert (found, type(found)) == (value, type(value))
    again = json.loads(json.dumps(found))  # as a config holds it
    assert (converted("x", again, kind), type(converted("x", again, kind))) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (tuple[int, ...], [1, 2], (1, 2)),
        (list[Path], ["a"], [Path("a")]),
        (tuple[str, Path], ["a", "b"], ("a", Path("b"))),
        (Path | None, "a", Path("a")),
        (Path | None, None, None),
        (Literal["words", "pieces"] | Path, "words", "words"),
        (Literal["words", "pieces"] | Path, "file.json", Path("file.json")),
        (str | int, 3, 3),
    ],
)
def test_a_function_takes_paths_and_tuples_where_these_are_its_types(kind, value, expected):
    found = taken(value, kind)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (int | float, "many", "x must be of type int or float; got 'many'"),
        (Auto | float, "atuo", "x must be of type auto or float; got 'atuo'"),
        (list[int], "1,two", "x must be of type int; got 'two'"),
        (list[int], 3, "x must be int,... with commas; got 3"),
        (tuple[int, float], "1", "x must be 2 values, int,float; got '1'"),
        (tuple[int, ...], "1,,2", "x must be of type int; got ''"),
        (Literal[True, "auto"], "yes", "there is no x 'yes'; there are: true, auto"),
        (list, "1", "x is of type list, which no text stands for"),
        (typing.List, "1", "x is of type List, which no text stands for"),  # noqa: UP006
        (dict[str, int], "a", "x is of type dict, which no text stands for"),
        (int, True, "x must be of type int; got True"),
        (int, 2.5, "x must be of type int; got 2.5"),
        (int, None, "x must be of type int; got None"),
    ],
)
def test_what_cannot_be_of_a_type_is_refused_with_the_value(kind, value, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        converted("x", value, kind)


def test_types_are_written_for_a_person():
    kinds = (Path | None, PosixPath, tuple[int, ...], tuple[int, Path], Literal[True, None, "a"], int | Auto)
    assert [kind_in_words(kind) for kind in kinds] == [
        *("Path or none", "Path", "int,... with commas", "int,Path", "true or none or a", "int or auto")
    ]


def test_a_setting_that_says_no_type_has_that_of_its_default():
    assert [kind_of(default) for default in (1, True, (1, 2), ["a"], None)] == [
        int,
        bool,
        tuple[int, ...],
        list[str],
        str,
    ]
    assert [kind_of(default) for default in ((), (1, "a"))] == [tuple, tuple]
