"""A run: the directory in which one training leaves its config, metrics and checkpoints, and its measurements."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn

from landscape.files import atomic_write, is_vacant, remove_partial, require_writable
from landscape.progress import Report, unreported
from msam.adopted import Adopted
from msam.checkpoints import is_whole, load_weights, read_weights, vocabulary_of
from msam.config import TrainConfig
from msam.configs import SWEEP_FILE, is_run, read_config, write_config
from msam.tasks import Task

try:
    import fcntl
except ImportError:  # not on Windows, where two trainings in one folder are not told apart
    fcntl = None  # type: ignore[assignment]


class Run:
    """A directory with ``config.json``, ``metrics.csv``, ``checkpoints/``, ``results/`` and ``figures/``.

    Attributes:
        path: the directory.
        config: what was, or is to be, trained; or where weights come from that were trained elsewhere.
    """

    def __init__(
        self, path: Path, config: TrainConfig | Adopted, *, chosen: Path | None = None, task: Task | None = None
    ) -> None:
        self.path = path
        self.config = config
        self._chosen = chosen
        self._task = task

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig, *, overwrite: bool = False) -> Self:
        """Make a new run directory; an existing run is replaced only when told to, or where it is this one and empty.

        Raises:
            FileExistsError: if the path is taken.
            OSError: if it cannot be written.
        """
        path = Path(path)
        if not path.is_dir() and (path.exists() or path.is_symlink()):
            raise FileExistsError(f"{path} exists and is not a run; choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config)
        with run._alone():  # of two that are begun here at once, one is told that the folder is taken
            if not is_vacant(path):
                if not is_run(path):
                    raise FileExistsError(f"{path} exists and is not a run; choose another folder")
                if overwrite:
                    require_writable(path / "config.json")  # before anything is removed
                    run._clear()
                elif run._is_begun() or read_config(path / "config.json") != config:
                    raise FileExistsError(f"{path} holds a run already; continue it with --resume, or --overwrite it")
            write_config(path / "config.json", config)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing run, named by its directory or by a checkpoint in it.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if its config is damaged.
        """
        path = Path(path)
        chosen = None
        if path.is_file():
            if path.absolute().parent.name != "checkpoints" or path.name == "state.pt":
                raise FileNotFoundError(
                    f"{path} is no run; a RUN is a run directory, or an epoch in its checkpoints/, and weights from "
                    "elsewhere go with --weights FILE --task TASK"
                )
            path, chosen = path.absolute().parent.parent, path
        file = path / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"there is no run at {path} (no config.json in it){_hint(path)}")
        return cls(path, read_config(file), chosen=chosen)

    @property
    def training(self) -> TrainConfig:
        """How the weights were, or are to be, trained.

        Raises:
            ValueError: if that is not known, because they come from elsewhere.
        """
        if isinstance(self.config, Adopted):
            raise ValueError(
                f"nothing is known of how {self.path} was trained, as its weights come from {self.config.file}; name a "
                "run that msam train wrote"
            )
        return self.config

    def config_if_begun_with(self, asked: TrainConfig, names: Collection[str]) -> TrainConfig:
        """The config, when the named settings are in it as they are asked for.

        Raises:
            ValueError: if one of them is another.
        """
        begun, now = (config.entries(names) for config in (self.training, asked))
        for name in begun | now:
            one, other = begun.get(name), now.get(name)
            if one != other:
                raise ValueError(f"the run was begun with {name} {one}, not {other}; leave that out, or --overwrite it")
        return self.training

    @property
    def name(self) -> str:
        """What a table calls this run."""
        name = self.path.absolute().name
        return name if self._chosen is None else f"{name}/{self._chosen.stem}"

    @property
    def about(self) -> str:
        """How it is trained: the method, its number of micro-batches where it has several, and the seed."""
        number, config = self.training.num_microbatches, self.training
        return f"{config.method}, {f'{number} micro-batches, ' if number > 1 else ''}seed {config.seed}"

    @property
    def state_path(self) -> Path:
        """Where the training state of the last whole epoch is."""
        return self.path / "checkpoints" / "state.pt"

    @property
    def is_complete(self) -> bool:
        """Whether the weights after the last epoch have been written."""
        return is_whole(self.weights_path(self.training.epochs)) and len(self.metrics()) == self.training.epochs

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this directory, and remove what killed ones left half-written.

        Raises:
            ValueError: if one does already.
        """
        with self._alone():
            for folder in (self.path, self.path / "checkpoints"):
                remove_partial(folder, older_than=0)
            for folder in (self.path / "results", self.path / "figures"):  # others may be measuring
                remove_partial(folder)
            yield

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ValueError(
                        f"another process is training in {self.path}; wait for it, or choose another folder"
                    ) from None
            yield
        finally:
            os.close(descriptor)

    def weights_path(self, epoch: int) -> Path:
        """Where the weights after an epoch are."""
        return self.path / "checkpoints" / f"epoch-{epoch:04d}.safetensors"

    @property
    def adopted_path(self) -> Path:
        """Where weights are that come from elsewhere, by the names of the task's model."""
        return self.path / "checkpoints" / "adopted.safetensors"

    def checkpoints(self) -> list[Path]:
        """All checkpoints, in the order of training; weights from elsewhere are one."""
        if isinstance(self.config, Adopted):
            return [self.adopted_path] if self.adopted_path.is_file() else []
        found = (self.path / "checkpoints").glob("epoch-*.safetensors")
        return sorted((path for path in found if path.stem[6:].isdecimal()), key=lambda path: int(path.stem[6:]))

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that was named, or else the last.

        Raises:
            FileNotFoundError: if there is none.
        """
        if self._chosen is not None:
            return self._chosen
        found = self.checkpoints()
        if not found:
            raise FileNotFoundError(
                f"the run {self.path} has no checkpoint; train it first, or continue it with --resume"
            )
        return found[-1]

    def load_task(self, report: Report = unreported) -> Task:
        """The task that the config names; its data are loaded once, however often it is asked for.

        Args:
            report: of data being read.

        Raises:
            FileNotFoundError, ValueError: if it cannot be loaded.
        """
        if self._task is None:
            self._task = self.config.load_task(report)
        return self._task

    def load_model(self, task: Task) -> nn.Module:
        """The task's model with the weights of the checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is damaged, refused, of another architecture, or of a vocabulary that is no more.
        """
        task.require_vocabulary(vocabulary_of(self.checkpoint), source=str(self.checkpoint))
        model = self.config.model(task)
        load_weights(model, read_weights(self.checkpoint), source=str(self.checkpoint))
        return model.eval()

    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``, one per epoch; NaN where a cell is empty."""
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            return [{k: int(v) if k == "epoch" else _number(v) for k, v in row.items()} for row in rows]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{file} is damaged ({error}); put it back, or train anew with --overwrite") from None

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Replace ``metrics.csv``, in a run that is still there; what is NaN has an empty cell."""
        self.require_present("trained")
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if math.isnan(v) else v for k, v in row.items()} for row in rows)
        with atomic_write(self.path / "metrics.csv") as stream:
            stream.write(text.getvalue().encode())

    def require_present(self, doing: str) -> None:
        """Before something is written into the run: a removed one would come back by half.

        Raises:
            FileNotFoundError: if it is gone; ``doing`` completes "while it was being ...".
        """
        if not (self.path / "config.json").is_file():
            raise FileNotFoundError(f"the run {self.path} was removed, or its config.json, while it was being {doing}")

    def outcome(self) -> dict[str, Any]:
        """Where the run and its checkpoint are, how it was trained, and the metrics of its last epoch."""
        where = {"run": self.path, "checkpoint": self.checkpoint}
        return where | {"method": self.training.method, "config": self.training.to_dict()} | self.metrics()[-1]

    def result_path(self, kind: str, key: str) -> Path:
        """Where a measurement is kept; ``key`` is a hash of what was measured and how."""
        return self.path / "results" / f"{kind}-{key}.npz"

    def figure_path(self, name: str) -> Path:
        """Where a figure is kept."""
        return self.path / "figures" / name

    def _is_begun(self) -> bool:
        """Whether training, or a measurement, has left anything."""
        return not all(is_vacant(self.path / name) for name in ("metrics.csv", "checkpoints", "results", "figures"))

    def _clear(self) -> None:
        """Remove everything but the config: what is left is a run at any moment, and the next config replaces it."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "config.json":
                path.unlink()


def _number(cell: str) -> float:
    return math.nan if cell == "" else float(cell)  # a cell that is missing is None, which no number is made of


def _hint(path: Path) -> str:
    """What there is instead of a run."""
    inside = sorted(child.parent.name for child in path.glob("*/config.json"))
    named = ", ".join(inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
    if (path / SWEEP_FILE).is_file():
        runs = f"name one of its runs ({named})" if inside else "it has no run yet"
        return f"; it is a sweep, which msam analyze, compare and flatness-vs-m take; {runs}"
    if (path.absolute().parent / "config.json").is_file():
        return f"; it is a part of the run {path.absolute().parent}"
    return f"; there are runs in it: {named}" if inside else ""
