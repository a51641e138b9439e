"""The settings of a task as they are given on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msam.tasks.registry import complete_settings, settings_of


def settings_given(task: str, *, task_settings: Sequence[str], model: str | None, data: Path | None) -> dict[str, Any]:
    """All settings of a task in their types; a folder of data by its whole path, to be found from everywhere.

    Args:
        task: its name.
        task_settings: ``NAME=VALUE``.
        model: the setting of this name, None when it is not given by itself.
        data: likewise.

    Raises:
        ValueError: if an entry is none, a setting is given twice in two ways, or the task does not take one.
    """
    given = dict(entry.partition("=")[::2] for entry in task_settings)
    if not all("=" in entry for entry in task_settings):
        raise ValueError(f"--set takes NAME=VALUE; got {', '.join(map(repr, task_settings))}")
    if data is not None and "data" not in settings_of(task):
        raise ValueError(f"the task {task} reads no files; leave out --data {data}")
    for name, value in (("model", model), ("data", data)):
        if value is not None and given.get(name, str(value)) != str(value):
            raise ValueError(f"--{name} {value} and --set {name}={given[name]} differ; give one of them")
        given |= {} if value is None else {name: str(value)}
    complete = complete_settings(task, given)
    if "data" in given and Path(str(complete["data"])).exists():
        complete["data"] = str(Path(complete["data"]).absolute())
    return complete
