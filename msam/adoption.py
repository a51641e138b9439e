"""Weights from elsewhere become a run: a directory in which answers about them are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from landscape.files import LONG_AGO, require_writable
from landscape.progress import Report, unreported
from msam.adopted import Adopted
from msam.checkpoints import is_whole, save_weights, vocabulary_of
from msam.configs import is_run, write_config
from msam.fitting import NamesDifferError
from msam.foreign import digest, split_key, whole
from msam.loading import load_foreign
from msam.run import Run
from msam.tasks import Task
from msam.tasks.registry import complete_settings

Say = Callable[[str], None]
_UNDER_WAY = "adopting"  # how folders end that are not whole yet


def adopt(
    source: str | Path,
    task: str,
    *,
    settings: Mapping[str, Any],
    say: Say,
    like: Run | None = None,
    report: Report = unreported,
) -> Run:
    """The run of a checkpoint from elsewhere, ``<name>-msam`` beside the file, or in the working directory.

    The same file under the same settings is adopted once. A file that has changed, another entry of it or another task
    is another run, ``<name>-msam-2``, so that no answer is taken for that of other weights.

    Args:
        source: the checkpoint, see :func:`msam.load_foreign`; ``FILE:ENTRY`` for one of several entries.
        task: whose model the weights are for.
        settings: of the task; those that are not named are the defaults.
        say: is told what was done to the names, line by line, and where the run is.
        like: a run of that task under the same settings, so that its data are loaded once for both.
        report: of data being read.

    Raises:
        FileNotFoundError, ValueError: see :func:`msam.load_foreign`; or if there is no such task or setting, or the
            checkpoint is of a vocabulary that is not the task's.
        OSError: if neither folder can be written.
    """
    path, key = split_key(source)
    whole(path)  # that it is there
    complete = complete_settings(task, settings)
    wanted = Adopted(task=task, settings=complete, file=str(path.absolute()), sha256=digest(path), key=key)
    folders = _folders(path, key)
    run = next((run for folder in folders for run in _adopted_in(folder, wanted)), None)
    if run is None:
        run = _make(folders[0], wanted, say, wanted.load_task(report) if like is None else like.load_task(report))
    for remark in run.config.remarks if isinstance(run.config, Adopted) else ():
        say(f"{wanted.label}: {remark}")
    say(f"{wanted.label}: adopted as {run.path}")
    return run


def run_path(text: Path, *, like: Run, say: Say) -> Path:
    """Where a run is: the path itself, or where weights from elsewhere were adopted on the task of another run.

    Raises:
        FileNotFoundError, ValueError, OSError: see :func:`adopt`.
    """
    path, _ = split_key(text)
    inside = path.absolute().parent
    if is_run(path) or (inside.name == "checkpoints" and is_run(inside.parent)) or not path.exists():
        return text
    return adopt(text, like.config.task, settings=like.config.settings, say=say, like=like).path


def _folders(path: Path, key: str) -> list[Path]:
    """Where the run may be, without its number: beside the file or folder, and in the working directory."""
    place = path if path.name not in ("", "..") else path.resolve()  # a link stands beside its own name
    stem = place.name if place.is_dir() else Path(place.name.removesuffix(".index.json")).stem
    name = "-".join([stem, *([key.replace("/", "-").replace(os.sep, "-")] if key else []), "msam"])
    homes = [place.parent, *([Path()] if place.parent.absolute() != Path.cwd() else [])]
    writable = [home / name for home in homes if os.access(home, os.W_OK | os.X_OK)]
    if not writable:
        require_writable(homes[0] / name / "config.json")  # which says why not
    return writable


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))


def _adopted_in(folder: Path, wanted: Adopted) -> Iterator[Run]:
    """The runs there that are of the same weights on the same task, and whole."""
    for path in itertools.takewhile(Path.exists, _numbered(folder)):
        with contextlib.suppress(OSError, ValueError):  # something else, or damaged
            run = Run.open(path)
            if isinstance(run.config, Adopted) and run.config.is_of(wanted) and is_whole(run.adopted_path):
                yield run


def _make(folder: Path, wanted: Adopted, say: Say, task: Task) -> Run:
    """Adopt a file; of two processes that do it at once, one does, and the other takes up what it finds."""
    task.require_vocabulary(vocabulary_of(whole(wanted.file)), source=wanted.file)
    model = task.model(seed=0)
    try:
        loaded = load_foreign(model, wanted.file, key=wanted.key)
    except NamesDifferError as error:
        if error.says_less_than_lines:
            for line in error.lines:
                say(line)
        raise
    if digest(wanted.file) != wanted.sha256:
        raise ValueError(f"{wanted.file} was changed while it was being read; give the same command again")
    _remove_leftovers(folder)
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{_UNDER_WAY}")
    config = dataclasses.replace(wanted, remarks=loaded.remarks)
    try:
        run = Run(made, config)
        save_weights(model, run.adopted_path, vocabulary=task.vocabulary)
        write_config(made / "config.json", config)
        for path in _numbered(folder):
            for other in _adopted_in(folder, wanted):
                return other
            try:
                if not path.exists():
                    made.rename(path)
                    return Run(path, config, task=task)
            except OSError:
                if not path.exists():  # it was not taken in the meantime
                    raise
        raise AssertionError  # numbers do not end
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed left of an adoption."""
    for path in folder.parent.glob(f".{folder.name}.*.{_UNDER_WAY}"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - LONG_AGO:
                shutil.rmtree(path)
