"""Tasks: what a checkpoint needs to become a loss over data again."""

from msam.tasks.task import Split, Task

__all__ = ["Task", "Split"]
