"""The tasks that are built in, by name."""

from __future__ import annotations

from collections.abc import Callable

from msam.tasks.digits import digits
from msam.tasks.glue import GLUE, glue
from msam.tasks.images import cifar10, cifar100, images
from msam.tasks.kernel import kernel
from msam.tasks.patches import patches
from msam.tasks.task import Task
from msam.tasks.text import text

TASKS: dict[str, Callable[..., Task]] = {
    "digits": digits,
    "patches": patches,
    "kernel": kernel,
    **{f"glue:{name}": glue(name) for name in GLUE},
    "text": text,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "images": images,
}
