"""Weights from elsewhere: on which task they are measured, and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from landscape.progress import Report, unreported
from msam.tasks import Task
from msam.tasks.registry import load_task


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What stands in the config of a run that was not trained here. Nothing is known of its training.

    Attributes:
        task: name of the task.
        settings: keyword arguments of the task, the model among them.
        file: the checkpoint, or the folder of it.
        sha256: of its bytes.
        key: the entry of the file that was asked for; empty where none was.
        remarks: what was stripped, left out, filled in or converted.
    """

    task: str
    settings: Mapping[str, Any]
    file: str
    sha256: str
    key: str
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            kinds = {"settings": Mapping, "remarks": Sequence}
            value = getattr(self, entry.name)
            if not isinstance(value, kinds.get(entry.name, str)):
                raise TypeError(f"the entry {entry.name} is {value!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """One read back from JSON.

        Raises:
            TypeError: if an entry is missing, unknown or of another type.
        """
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"remarks": list(self.remarks)}

    @property
    def label(self) -> str:
        """What a person calls the weights: the name of the file, and the entry of it that was asked for."""
        return Path(self.file).name + (f":{self.key}" if self.key else "")

    def is_of(self, other: Adopted) -> bool:
        """Whether these are the same weights on the same task, wherever the file is."""
        names = ("task", "settings", "sha256", "key")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def load_task(self, report: Report = unreported) -> Task:
        """The task, its data loaded.

        Args:
            report: of data being read.

        Raises:
            ValueError: if the task or a setting is unknown.
        """
        return load_task(self.task, self.settings, report=report)

    @property
    def trainable(self) -> str:
        """Which parameters are measured where no others are named: all that the model does not freeze itself."""
        return "all"

    def model(self, task: Task) -> nn.Module:
        """The model of a task before it has the weights."""
        return task.model(seed=0)
