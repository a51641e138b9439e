"""A run: the directory in which one training leaves its config, metrics and checkpoints, and its measurements."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn

from landscape.files import atomic_write, is_vacant, remove_partial, require_writable
from landscape.manifest import versions
from msam.checkpoints import is_whole, load_weights, read_weights
from msam.config import LATER, TrainConfig
from msam.tasks import Task

try:
    import fcntl
except ImportError:  # not on Windows, where two trainings in one folder are not told apart
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
SWEEP_FILE = "sweep.json"


class Run:
    """A directory with ``config.json``, ``metrics.csv``, ``checkpoints/``, ``results/`` and ``figures/``.

    Attributes:
        path: the directory.
        config: what was, or is to be, trained.
    """

    def __init__(self, path: Path, config: TrainConfig, *, chosen: Path | None = None) -> None:
        self.path = path
        self.config = config
        self._chosen = chosen

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig, *, overwrite: bool = False) -> Self:
        """Make a new run directory; an existing run is replaced only when told to.

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
                if not _is_run(path):
                    raise FileExistsError(f"{path} exists and is not a run; choose another folder")
                if not overwrite:
                    raise FileExistsError(f"{path} holds a run already; continue it with --resume, or --overwrite it")
                require_writable(path / "config.json")  # before anything is removed
                run._clear()
            content = {"format": FORMAT, "config": config.to_dict(), "versions": versions()}
            with atomic_write(path / "config.json") as stream:
                stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
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
                raise FileNotFoundError(f"{path} is no run; a RUN is a run directory, or an epoch in its checkpoints/")
            path, chosen = path.absolute().parent.parent, path
        file = path / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"there is no run at {path} (no config.json in it){_hint(path)}")
        (config,) = read_configs(file, what="the config of a run")
        return cls(path, config, chosen=chosen)

    def config_if_begun_with(self, asked: TrainConfig, names: Collection[str]) -> TrainConfig:
        """The config, when the named settings are in it as they are asked for.

        Raises:
            ValueError: if one of them is another.
        """
        begun, now = (config.entries(names) for config in (self.config, asked))
        for name in begun | now:
            one, other = begun.get(name), now.get(name)
            if one != other:
                raise ValueError(f"the run was begun with {name} {one}, not {other}; leave that out, or --overwrite it")
        return self.config

    @property
    def name(self) -> str:
        """What a table calls this run."""
        name = self.path.absolute().name
        return name if self._chosen is None else f"{name}/{self._chosen.stem}"

    @property
    def about(self) -> str:
        """How it is trained: the method, its number of micro-batches where it has several, and the seed."""
        number = self.config.num_microbatches
        return f"{self.config.method}, {f'{number} micro-batches, ' if number > 1 else ''}seed {self.config.seed}"

    @property
    def state_path(self) -> Path:
        """Where the training state of the last whole epoch is."""
        return self.path / "checkpoints" / "state.pt"

    @property
    def is_complete(self) -> bool:
        """Whether the weights after the last epoch have been written."""
        return is_whole(self.weights_path(self.config.epochs)) and len(self.metrics()) == self.config.epochs

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

    def checkpoints(self) -> list[Path]:
        """All checkpoints, in the order of training."""
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

    def load_model(self, task: Task) -> nn.Module:
        """The task's model with the weights of the checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is damaged, refused, or of another architecture.
        """
        model = task.model(seed=self.config.seed)
        load_weights(model, read_weights(self.checkpoint), source=str(self.checkpoint))
        return model.eval()

    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``, one per epoch."""
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in rows]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{file} is damaged ({error}); put it back, or train anew with --overwrite") from None

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Replace ``metrics.csv``, in a run that is still there."""
        self.require_present("trained")
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
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
        return where | {"method": self.config.method, "config": self.config.to_dict()} | self.metrics()[-1]

    def result_path(self, kind: str, key: str) -> Path:
        """Where a measurement is kept; ``key`` is a hash of what was measured and how."""
        return self.path / "results" / f"{kind}-{key}.npz"

    def figure_path(self, name: str) -> Path:
        """Where a figure is kept."""
        return self.path / "figures" / name

    def _clear(self) -> None:
        """Remove everything but the config: what is left is a run at any moment, and the next config replaces it."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "config.json":
                path.unlink()


def read_configs(file: Path, *, what: str) -> list[TrainConfig]:
    """The config under ``config``, or the list of them under ``configs``, of a JSON file that says its format.

    Raises:
        ValueError: if the file is damaged or of a newer format, or lacks an entry.
    """

    def damaged(reason: object) -> ValueError:
        return ValueError(f"{file} is not {what}: {reason}; put the file back, or begin anew")

    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(error) from None
    entry = "configs" if file.name == SWEEP_FILE else "config"
    for name in ("format", entry):
        if not isinstance(written, dict) or name not in written:
            raise damaged(f"the entry {name!r} is missing")
    if not isinstance(written["format"], int):
        raise damaged(f"its format is {written['format']!r}")
    if written["format"] > FORMAT:
        raise ValueError(f"{file} was written by a newer version (format {written['format']}); update the package")
    found = written[entry] if entry == "configs" else [written[entry]]
    if not isinstance(found, list) or not all(isinstance(values, dict) for values in found):
        raise damaged(f"the entry {entry!r} is of another type")
    found = [LATER | values for values in found]
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    missing = [name for name in names if any(name not in values for values in found)]
    if missing:  # a default could be another value than the one it was trained with
        raise damaged(f"the entry {missing[0]!r} of the settings is missing")
    try:
        return [TrainConfig.from_dict(values) for values in found]
    except (ValueError, TypeError) as error:
        raise damaged(error) from None


def _is_run(path: Path) -> bool:
    """Whether the config there is one of ours: other programs' folders have a config.json too."""
    try:
        written = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and {"format", "config"} <= written.keys()


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
