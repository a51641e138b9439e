"""A sweep: a directory of runs that differ in what was varied, and in nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from landscape.files import atomic_write, is_vacant, remove_partial
from msam.config import TrainConfig
from msam.configs import FORMAT, SWEEP_FILE, read_configs
from msam.run import Run


def grid(base: TrainConfig, axes: Mapping[str, Sequence[Any]]) -> list[TrainConfig]:
    """All combinations of the values of some config entries, without repetition.

    Without a perturbation the radius and the number of micro-batches change nothing; such a run is in it once.

    >>> configs = grid(TrainConfig(), {"perturbation": ["none", "sam"], "num_microbatches": [1, 2]})
    >>> [(config.perturbation, config.num_microbatches) for config in configs]
    [('none', 1), ('sam', 1), ('sam', 2)]
    """
    found: list[TrainConfig] = []
    for values in itertools.product(*axes.values()):
        entries = dict(zip(axes, values, strict=True))
        unperturbed = entries.get("perturbation", base.perturbation) == "none" or entries.get("rho", base.rho) == 0
        if unperturbed:
            entries["perturbation"] = "none"
            entries |= {"rho": 0.0, "num_microbatches": 1}
        config = dataclasses.replace(base, **entries)
        if config not in found:
            found.append(config)
    return found


class Sweep:
    """A directory with ``sweep.json`` and one run directory for each config.

    Attributes:
        path: the directory.
        configs: one per run, in order.
    """

    def __init__(self, path: Path, configs: Sequence[TrainConfig]) -> None:
        self.path = path
        self.configs = list(configs)

    @classmethod
    def create(cls, path: str | Path, configs: Sequence[TrainConfig]) -> Self:
        """Make a sweep directory, or take up the one that was made for the same configs.

        Raises:
            FileExistsError: if the path holds something else, or a sweep of other configs.
        """
        path = Path(path)
        if (path / SWEEP_FILE).is_file():
            sweep = cls.open(path)
            if [config.completed() for config in sweep.configs] != [config.completed() for config in configs]:
                raise FileExistsError(f"{path} holds a sweep of other settings; choose another folder, or remove it")
            return sweep
        if not is_vacant(path):
            raise FileExistsError(f"{path} exists and is not a sweep; choose another folder")
        remove_partial(path)
        sweep = cls(path, configs)
        content = {"format": FORMAT, "configs": [config.to_dict() for config in configs]}
        with atomic_write(path / SWEEP_FILE) as stream:
            stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        return sweep

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing sweep.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if ``sweep.json`` is damaged.
        """
        path = Path(path)
        file = path / SWEEP_FILE
        if not file.is_file():
            hint = "; it is a single run" if (path / "config.json").is_file() else ""
            raise FileNotFoundError(f"there is no sweep at {path} (no {SWEEP_FILE} in it){hint}")
        return cls(path, read_configs(file, what="the description of a sweep"))

    def run_path(self, index: int) -> Path:
        """Where the run of a config is."""
        return self.path / f"run-{index + 1:02d}"

    def prepared(self) -> Iterator[Run]:
        """Every run, its directory made where it is missing."""
        for index, config in enumerate(self.configs):
            path = self.run_path(index)
            yield self._own(path, config) if (path / "config.json").is_file() else Run.create(path, config)

    def finished(self) -> list[Run]:
        """All runs.

        Raises:
            ValueError: if some are not trained to the end.
        """
        paths = [self.run_path(index) for index in range(len(self.configs))]
        missing = [path.name for path in paths if not _is_complete(path)]
        if missing:
            raise ValueError(
                f"the sweep {self.path} is not finished ({', '.join(missing[:5])}); "
                "give the same msam sweep command again"
            )
        return [self._own(path, config) for path, config in zip(paths, self.configs, strict=True)]

    def _own(self, path: Path, config: TrainConfig) -> Run:
        run = Run.open(path)
        if run.config != config:
            raise ValueError(
                f"{path} was trained with other settings than the sweep {self.path}; move it away, and give the same "
                "msam sweep command again"
            )
        return run


def _is_complete(path: Path) -> bool:
    return (path / "config.json").is_file() and Run.open(path).is_complete


def open_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs named by directories, checkpoints or sweeps, in order.

    Raises:
        FileNotFoundError, ValueError: if one of them cannot be opened.
    """
    runs: list[Run] = []
    for path in paths:
        runs += Sweep.open(path).finished() if (Path(path) / SWEEP_FILE).is_file() else [Run.open(path)]
    return runs
