"""The kinds of values that settings of tasks have, and the texts on a command line that stand for them."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from msam.models.huggingface import PREFIX
from msam.models.registry import ImageModel

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def converted(name: str, value: Any, kind: Any) -> Any:
    """A value of a setting in its type: a text as it stands on a command line, or one that is of the type already.

    Of several types that a setting may have, it is the first that the value can be of. A path stays a text, and a tuple
    becomes a list, which a config can hold; :func:`taken` is what a function takes.

    Args:
        name: of the setting, for the error.
        value: to convert.
        kind: int, float, str, bool, a path, a ``Literal``, a list or a tuple of these, None, or a union.

    Raises:
        ValueError: if the value is not of the type, or no text stands for any value of it.

    >>> converted("most", "none", int | None), converted("rate", "0.5", Literal["auto"] | float)
    (None, 0.5)
    >>> converted("widths", "64,128", tuple[int, ...])
    [64, 128]
    """
    return _first_that_fits(name, value, kind)[0]


def taken(value: Any, kind: Any) -> Any:
    """A converted value as the function of a task takes it: paths, and tuples where these are its type."""
    _, fitting = _first_that_fits("", value, kind)
    if isinstance(value, list):
        kinds = [part for part in typing.get_args(fitting) if part is not ...]
        values = [taken(entry, kinds[min(place, len(kinds) - 1)]) for place, entry in enumerate(value)]
        return tuple(values) if typing.get_origin(fitting) is tuple else values
    return Path(value) if _is_path(fitting) else value


def kind_in_words(kind: Any) -> str:
    """How a type is written for a person: its name, or what there is to choose from."""
    if typing.get_origin(kind) is Literal:
        return " or ".join([*map(written, typing.get_args(kind)), *_besides(kind)])
    if _is_union(kind):
        return " or ".join("none" if part is type(None) else kind_in_words(part) for part in typing.get_args(kind))
    if _is_several(kind):
        kinds = [part for part in typing.get_args(kind) if part is not ...]
        named = ",".join(map(kind_in_words, kinds))
        return named if _is_of_fixed_length(kind) else f"{named},... with commas"
    if _is_path(kind):
        return "Path"
    return getattr(kind, "__name__", str(kind))


def has_paths(kind: Any) -> bool:
    """Whether a value of a type can be a path."""
    return any(_is_path(part) for part in _parts(kind))


def kind_of(default: Any) -> Any:
    """The type of a setting that says none, by its default."""
    if default is inspect.Parameter.empty or default is None:
        return str
    inner = {type(entry) for entry in default} if isinstance(default, list | tuple) else set()
    if len(inner) != 1:
        return type(default)
    (one,) = inner
    return list[one] if isinstance(default, list) else tuple[one, ...]  # type: ignore[valid-type]


def written(value: Any) -> str:
    """The text on a command line that stands for a value."""
    if isinstance(value, list | tuple):
        return ",".join(map(written, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def hint(wrong: str, options: list[str]) -> str:
    """What there is, and what may have been meant."""
    near = difflib.get_close_matches(wrong, options, n=1)
    return f"did you mean {near[0]!r}? There are: {', '.join(options)}" if near else f"there are: {', '.join(options)}"


def _first_that_fits(name: str, value: Any, kind: Any) -> tuple[Any, Any]:
    """The value in the first type of a union that it can be of, and that type."""
    kinds = _parts(kind)
    if type(None) in kinds and (value is None or str(value).lower() == "none"):
        return None, type(None)
    kinds = [part for part in kinds if part is not type(None)]
    if len(kinds) == 1:
        return _converted(name, value, kinds[0]), kinds[0]
    for part in sorted(kinds, key=lambda part: isinstance(value, str) or type(value) is not part):  # a number stays one
        try:
            return _converted(name, value, part), part
        except ValueError:
            continue
    raise ValueError(f"{name} must be of type {kind_in_words(kind)}; got {value!r}")


def _converted(name: str, value: Any, kind: Any) -> Any:
    """A value in one type."""
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        chosen = [option for option in options if option == value or value in (str(option), written(option))]
        if _besides(kind) and str(value).startswith(PREFIX):
            return str(value)
        if not chosen:
            there = [*map(written, options), *_besides(kind)]
            raise ValueError(f"there is no {name} {value!r}; {hint(str(value), there)}")
        return chosen[0]
    if _is_several(kind):
        return _several(name, value, kind)
    if kind is bool:
        if not isinstance(value, bool) and str(value).lower() not in _TRUTHS:
            raise ValueError(f"{name} must be true or false; got {value!r}")
        return value if isinstance(value, bool) else _TRUTHS[str(value).lower()]
    path = _is_path(kind)
    if kind not in (int, float, str) and not path:
        raise ValueError(
            f"{name} is of type {kind_in_words(kind)}, which no text stands for; a setting of a task is a number, a "
            "text, a path, true or false, one of the values of a Literal, or several of these, as list[int]"
        )
    try:
        found = str(value) if path else kind(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    rounded = kind is int and not isinstance(value, str) and found != value
    if found is None or isinstance(value, bool) or rounded or value is None:
        raise ValueError(f"{name} must be of type {kind_in_words(kind)}; got {value!r}")
    return found


def _several(name: str, value: Any, kind: Any) -> list[Any]:
    """The values of a list or a tuple, each in its type."""
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"{name} must be {kind_in_words(kind)}; got {value!r}")
    parts = value.strip().split(",") if isinstance(value, str) else value
    given = [] if parts == [""] else [part.strip() if isinstance(part, str) else part for part in parts]
    kinds = typing.get_args(kind)
    fixed = _is_of_fixed_length(kind)
    if fixed and len(given) != len(kinds):
        raise ValueError(f"{name} must be {len(kinds)} values, {kind_in_words(kind)}; got {value!r}")
    each = kinds if fixed else [kinds[0]] * len(given)
    return [converted(name, entry, part) for entry, part in zip(given, each, strict=True)]


def _is_several(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, tuple, Sequence) and typing.get_args(kind) != ()


def _is_of_fixed_length(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple and ... not in typing.get_args(kind)


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, PurePath)


def _parts(kind: Any) -> list[Any]:
    return [*typing.get_args(kind)] if _is_union(kind) else [kind]


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _besides(kind: Any) -> list[str]:
    """What an image model may be, besides those that are built in."""
    return [f"{PREFIX}FOLDER"] if kind == ImageModel else []
