"""The settings of a task as they are given on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msam.models.huggingface import PREFIX
from msam.tasks.kinds import has_paths, taken
from msam.tasks.registry import complete_settings, settings_of


def settings_given(task: str, *, task_settings: Sequence[str], model: str | None, data: Path | None) -> dict[str, Any]:
    """All settings of a task in their types; files and folders by their whole paths, to be found from everywhere.

    Args:
        task: its name.
        task_settings: ``NAME=VALUE``.
        model: the setting of this name, None when it is not given by itself.
        data: likewise.

    Raises:
        ValueError: if an entry is none, a path is empty, a setting is given in two ways, or the task does not take one.
    """
    if not all("=" in entry for entry in task_settings):
        raise ValueError(f"--set takes NAME=VALUE; got {', '.join(map(repr, task_settings))}")
    given: dict[str, str] = {}
    for entry in task_settings:
        name, _, text = entry.partition("=")
        if given.setdefault(name, text) != text:
            raise ValueError(f"--set {name}={given[name]} and --set {entry} differ; give one of them")
    known = settings_of(task)
    if data is not None and "data" not in known:
        raise ValueError(f"the task {task} reads no files; leave out --data {data}")
    for name, text in given.items():
        if text == "" and name in known and has_paths(known[name][0]):
            raise ValueError(f"--set {name}= has no path after it; the working directory is {name}=.")
    for name, value in (("model", model), ("data", data)):
        if value is not None and given.get(name, str(value)) != str(value):
            raise ValueError(f"--{name} {value} and --set {name}={given[name]} differ; give one of them")
        given |= {} if value is None else {name: str(value)}
    complete = complete_settings(task, given)
    return complete | {name: _whole(complete[name], known[name][0]) for name in given}


def _whole(value: Any, kind: Any) -> Any:
    """The whole path of what is there: of a setting that is a path, or of a model's folder."""
    prefix = PREFIX if str(value).startswith(PREFIX) else ""
    if not (prefix or isinstance(taken(value, kind), Path)):
        return value
    name = str(value).removeprefix(prefix)
    place = Path(name).expanduser()
    return f"{prefix}{place.absolute()}" if name and place.exists() else value
