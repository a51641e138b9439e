"""The tasks that are built in, by name."""

from __future__ import annotations

from collections.abc import Callable

from msam.tasks.digits import digits
from msam.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {
    "digits": digits,
}
