"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LONG_AGO = 3600.0  # seconds; nothing takes that long to write
_PARTIAL = f".*.{'[0-9a-f]' * 8}.partial"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary stream whose contents appear at ``path`` when the block ends without an error, and not before.

    Missing folders are made. After an error, an interrupt or a full disk, what stood at ``path`` still stands there,
    and nothing else; only a process that is killed leaves ``.<name>.<8 digits>.partial`` behind.

    Raises:
        OSError: if the folder or the file cannot be written, or ``path`` is there and not a file.
    """
    path = Path(path)
    require_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named before it is made, and made inside the try, so that an interrupt at any moment finds it by its name.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it was not made, or cannot be
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk does not say where, and nobody knows the other name
        raise


def require_writable(path: str | Path) -> None:
    """Find out before a long measurement whether a file can be written, as far as that can be known.

    Raises:
        OSError: if ``path`` is there and not a file, or its folder is none or may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    if path.exists() and not path.is_file():  # a device would be replaced by a file
        raise OSError(errno.EINVAL, "not a file", str(path))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise _os_error(errno.ENOTDIR, path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _os_error(errno.EACCES, path)


def is_vacant(path: str | Path) -> bool:
    """Whether there is nothing at ``path``, or a folder in which nothing has been finished."""
    path = Path(path)
    if path.is_dir():
        return {entry.name for entry in path.iterdir()} == {entry.name for entry in path.glob(_PARTIAL)}
    return not (path.exists() or path.is_symlink())


def remove_partial(folder: str | Path, *, older_than: float = LONG_AGO) -> None:
    """Remove from a folder what killed processes left half-written.

    Args:
        folder: where to look; not below it.
        older_than: seconds; what was touched since may still be written. Zero where no other process can be writing.
    """
    latest = time.time() - older_than
    for path in Path(folder).glob(_PARTIAL):
        with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
            if not older_than or path.stat().st_mtime <= latest:
                path.unlink()


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
