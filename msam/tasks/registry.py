"""Tasks by name: those that are built in, and functions of the user's own, ``module.path:function``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from landscape.progress import Report, unreported
from msam.models.registry import ImageModel, settled
from msam.tasks.built_in import TASKS
from msam.tasks.failing import said
from msam.tasks.kinds import converted, hint, kind_in_words, kind_of, taken, written
from msam.tasks.task import Task

_EMPTY: Any = inspect.Parameter.empty  # the default of a setting that has none
_ARGUMENT = re.compile(r" {4}(\w+): (.*)")


def load_task(name: str, settings: Mapping[str, Any], *, report: Report = unreported) -> Task:
    """Build a task by name.

    Args:
        name: one of ``TASKS``, or ``module.path:function``, a function that returns a task; modules in the working
            directory are found.
        settings: keyword arguments of the task; strings are converted to the type of the argument.
        report: for a function that takes one, an argument of type ``landscape.progress.Report``, to show how far it is.

    Raises:
        FileNotFoundError: if there are no data where a task that is built in looks for them.
        ValueError: if there is no such task or setting, a value is not of its type or out of range, or a function
            of the user's own cannot be imported, fails, or returns something else.
    """
    complete, known = complete_settings(name, settings), settings_of(name)
    given = {key: taken(value, known[key][0]) for key, value in complete.items()}
    function = function_of(name)
    given |= {key: report for key, kind in typing.get_type_hints(function).items() if kind == Report}
    if name in TASKS:
        with torch.device("cpu"):  # whatever the default device
            return TASKS[name](**given)
    try:
        task = function(**given)
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise ValueError(f"the task {name} failed with {said(error)}") from error
    if not isinstance(task, Task):
        raise ValueError(f"the task {name} returned a {type(task).__name__}; it must return a msam.Task")
    try:
        task.require_usable()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the task {name} cannot be used: {error}") from None
    return task


def complete_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a task: the given ones in their types, the defaults for the others.

    Where a task has a ``model`` of type :data:`ImageModel`, settings of the model that are none are the model's own.

    Raises:
        ValueError: if there is no such task or setting, one without a default is missing, a value is not of its type,
            or the model does not take one.
    """
    known = settings_of(name)
    for key in settings:
        if key not in known:
            there = hint(key, list(known)) if known else "it has none"
            raise ValueError(f"task {name!r} has no setting {key!r}; {there}")
    found = {}
    for key, (kind, default) in known.items():
        if key not in settings and default is _EMPTY:
            raise ValueError(f"task {name!r} needs the setting {key!r}; give it with --set {key}=...")
        found[key] = converted(key, settings.get(key, default), kind)
    return settled(found) if known.get("model", (None,))[0] == ImageModel else found


def settings_of(name: str) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each setting of a task; ``inspect.Parameter.empty`` where there is no default.

    Raises:
        ValueError: if there is no such task, or its arguments have no names or no types that can be read.
    """
    function = function_of(name)
    found = {}
    try:
        signature, kinds = inspect.signature(function), typing.get_type_hints(function)
    except Exception as error:  # annotations that are texts are run
        raise ValueError(f"the settings of the task {name} cannot be read: {said(error)}") from None
    for key, entry in signature.parameters.items():
        if entry.kind not in (entry.KEYWORD_ONLY, entry.POSITIONAL_OR_KEYWORD):
            raise ValueError(f"the task {name} takes {entry}; its settings must be arguments with names")
        if kinds.get(key) == Report:  # no setting: whoever loads the task brings it
            continue
        kind = kinds.get(key, kind_of(entry.default))
        found[key] = (kind | None if entry.default is None else kind, entry.default)
    return found


def described(name: str) -> list[dict[str, str | None]]:
    """The settings of a task for a person: name, type, default, None where there is none, and what it is.

    The last is what stands of it under ``Args:`` in the docstring of the function, and may be empty.

    Raises:
        ValueError: if there is no such task, or its arguments cannot be read.
    """
    said = _said_of_arguments(function_of(name))
    return [
        {
            "setting": key,
            "type": kind_in_words(kind),
            "default": None if default is _EMPTY else written(default),
            "about": said.get(key, ""),
        }
        for key, (kind, default) in settings_of(name).items()
    ]


def _said_of_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    key = ""
    for line in itertools.takewhile(lambda line: line.startswith("    "), section.splitlines()):
        begins = _ARGUMENT.match(line)
        key, words = (begins[1], begins[2]) if begins else (key, line.strip())
        found[key] = f"{found[key]} {words}" if key in found else words
    return found


def function_of(name: str) -> Callable[..., Any]:
    """The function that builds a task.

    Raises:
        ValueError: if there is none of that name.
    """
    if name in TASKS:
        return TASKS[name]
    path, colon, wanted = name.partition(":")
    if not path or not colon or any(known.startswith(f"{path}:") for known in TASKS):  # a family that is built in
        raise ValueError(
            f"there is no task {name!r}; {hint(name, list(TASKS))}. One of your own is named module.path:function"
        )
    if path.endswith(".py") or "/" in path:
        there = ".".join(Path(path).with_suffix("").parts)
        raise ValueError(
            f"{path} is a file, and a task is named by its module, in the working directory or installed: "
            f"{there}:{wanted}"
        )
    try:
        with _working_directory_first():
            module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise ValueError(f"the module {path} of the task {name} cannot be imported: {said(error)}") from None
        raise ValueError(
            f"there is no module {path!r} for the task {name}; run the command in the folder it is in, or install it"
        ) from None
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ValueError(f"the module {path} of the task {name} cannot be imported: {said(error)}") from error
    function = getattr(module, wanted, None)
    if function is None:
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path]
        there = hint(wanted, own) if own else "it has no functions"
        raise ValueError(f"the module {path} has no function {wanted!r}; {there}")
    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}; a task is a function that returns a msam.Task")
    return function  # type: ignore[no-any-return]


@contextlib.contextmanager
def _working_directory_first() -> Iterator[None]:
    """Modules are looked for in the working directory first, where an installed command does not look.

    Afterwards it is the last place: what a user's project happens to call like a package that is imported later, as
    ``figures``, does not stand in for it.
    """
    here = str(Path.cwd())
    if here in sys.path[:-1]:
        yield
        return
    sys.path[:] = [here, *(place for place in sys.path if place != here)]
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
        sys.path.append(here)
