"""Where the files of a task are."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MSAM_DATA"


def present(path: Path) -> Path:
    """A path that a setting names; where there is nothing any more, the one that ``MSAM_DATA`` names."""
    now = os.environ.get(VARIABLE)
    return Path(now) if now and not path.exists() and Path(now).exists() else path


def folder_of(data: str | Path | None, *, what: str) -> Path:
    """The folder that a setting names; where there is none, or none any more, the one that ``MSAM_DATA`` names.

    A run keeps the folder that it was trained with; the variable says where the files are now.

    Args:
        data: the setting, None when it was left out.
        what: that is read from there, for the error.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    asked = None if data is None else Path(data)
    if asked is not None and asked.is_dir():
        return asked
    now = os.environ.get(VARIABLE)
    if now and Path(now).is_dir():
        return Path(now)
    advice = (
        f"put {what} into a folder and name it with --data FOLDER; {VARIABLE}=FOLDER says where it is now, for a run"
    )
    if asked is None and not now:
        raise FileNotFoundError(f"it is not said where {what} are; {advice}")
    missing = asked if asked is not None else f"{now}, which {VARIABLE} names"
    kind = "a file, not a folder" if asked is not None and asked.exists() else "no such folder"
    raise FileNotFoundError(f"there is no data at {missing} ({kind}); {advice}. Nothing is downloaded")
