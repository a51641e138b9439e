"""Configs as files hold them: of runs, of sweeps, and of weights from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.files import atomic_write
from landscape.manifest import versions
from msam.adopted import Adopted
from msam.config import LATER, TrainConfig
from msam.data.fingerprints import is_fingerprint

FORMAT = 1
SWEEP_FILE = "sweep.json"


def write_config(
    file: Path, config: TrainConfig | Adopted, *, data: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write ``config.json``, whole or not at all.

    Args:
        file: its place.
        config: what it is to hold.
        data: the fingerprints of what is trained on and held out, by split; none before training begins.
    """
    entry = "adopted" if isinstance(config, Adopted) else "config"
    content = {"format": FORMAT, entry: config.to_dict(), "versions": versions()} | ({"data": data} if data else {})
    with atomic_write(file) as stream:
        stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_config(file: Path) -> TrainConfig | Adopted:
    """The config in a ``config.json``.

    Raises:
        ValueError: if the file is damaged or of a newer format, or lacks an entry.
    """
    what = "the config of a run"
    written = _read(file, what)
    if "adopted" not in written:
        (config,) = read_configs(file, what=what)
        return config
    try:
        return Adopted.from_dict(written["adopted"])
    except (ValueError, TypeError) as error:
        raise _damaged(file, what, error) from None


def read_fingerprints(file: Path) -> dict[str, dict[str, Any]] | None:
    """The fingerprints of the data in a ``config.json``, by split; None where it has none, as those of older versions.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged.
    """
    what = "the config of a run"
    found: dict[str, dict[str, Any]] | None = _read(file, what).get("data")
    if found is None:
        return None
    if not isinstance(found, dict) or not all(map(is_fingerprint, found.values())):
        raise _damaged(file, what, "the entry 'data' is no fingerprint")
    return found


def read_configs(file: Path, *, what: str) -> list[TrainConfig]:
    """The config under ``config``, or the list of them under ``configs``, of a JSON file that says its format.

    Raises:
        ValueError: if the file is damaged or of a newer format, or lacks an entry.
    """
    written = _read(file, what)
    entry = "configs" if file.name == SWEEP_FILE else "config"
    if entry not in written:
        raise _damaged(file, what, f"the entry {entry!r} is missing")
    found = written[entry] if entry == "configs" else [written[entry]]
    if not isinstance(found, list) or not all(isinstance(values, dict) for values in found):
        raise _damaged(file, what, f"the entry {entry!r} is of another type")
    found = [LATER | values for values in found]
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    missing = [name for name in names if any(name not in values for values in found)]
    if missing:  # a default could be another value than the one it was trained with
        raise _damaged(file, what, f"the entry {missing[0]!r} of the settings is missing")
    try:
        return [TrainConfig.from_dict(values) for values in found]
    except (ValueError, TypeError) as error:
        raise _damaged(file, what, error) from None


def _read(file: Path, what: str) -> Mapping[str, Any]:
    """What a file of a format that is known holds."""
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, what, error) from None
    if not isinstance(written, dict) or "format" not in written:
        raise _damaged(file, what, "the entry 'format' is missing")
    if not isinstance(written["format"], int):
        raise _damaged(file, what, f"its format is {written['format']!r}")
    if written["format"] > FORMAT:
        raise ValueError(f"{file} was written by a newer version (format {written['format']}); update the package")
    return written


def _damaged(file: Path, what: str, reason: object) -> ValueError:
    return ValueError(f"{file} is not {what}: {reason}; put the file back, or begin anew")


def is_run(path: Path) -> bool:
    """Whether the config there is one of ours: other programs' folders have a config.json too."""
    try:
        written = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and "format" in written and bool({"config", "adopted"} & written.keys())
