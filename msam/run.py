"""A run: the directory in which one training leaves its config, metrics and checkpoints, and its measurements."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn

from landscape.files import atomic_write
from landscape.manifest import versions
from msam.checkpoints import is_whole, load_weights, read_weights
from msam.config import TrainConfig
from msam.tasks import Task

try:
    import fcntl
except ImportError:  # not on Windows, where two trainings in one folder are not told apart
    fcntl = None  # type: ignore[assignment]

FORMAT = 1


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
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            if not _is_run(path):
                raise FileExistsError(f"{path} exists and is not a run; choose another folder")
            if not overwrite:
                raise FileExistsError(f"{path} holds a run already; continue it with --resume, or --overwrite it")
            with cls(path, config).locked():
                shutil.rmtree(path.resolve())
        run = cls(path, config)
        run._write_json("config.json", {"format": FORMAT, "config": config.to_dict(), "versions": versions()})
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
            path, chosen = path.absolute().parent.parent, path
        file = path / "config.json"
        if not file.is_file():
            inside = sorted(child.parent.name for child in path.glob("*/config.json")) if path.is_dir() else []
            hint = f"; there are runs in it: {', '.join(inside[:5])}" if inside else ""
            raise FileNotFoundError(f"there is no run at {path} (no config.json in it){hint}")
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
            config = TrainConfig.from_dict(written["config"])
            if written["format"] > FORMAT:
                raise ValueError(f"it was written by a newer version (format {written['format']})")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is not the config of a run: {error}") from None
        return cls(path, config, chosen=chosen)

    @property
    def name(self) -> str:
        """What a table calls this run."""
        name = self.path.absolute().name
        return name if self._chosen is None else f"{name}/{self._chosen.stem}"

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
        """Keep other processes from training in this directory.

        Raises:
            ValueError: if one does already.
        """
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
        return sorted(found, key=lambda path: (len(path.name), path.name))

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
                return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{file} is damaged ({error}); put it back, or train anew with --overwrite") from None

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Replace ``metrics.csv``."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.path / "metrics.csv") as stream:
            stream.write(text.getvalue().encode())

    def result_path(self, kind: str, key: str) -> Path:
        """Where a measurement is kept; ``key`` is a hash of what was measured and how."""
        return self.path / "results" / f"{kind}-{key}.npz"

    def figure_path(self, name: str) -> Path:
        """Where a figure is kept."""
        return self.path / "figures" / name

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.path / name) as stream:
            stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _is_run(path: Path) -> bool:
    """Whether the config there is one of ours: other programs' folders have a config.json too."""
    try:
        written = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and {"format", "config"} <= written.keys()
