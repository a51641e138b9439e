"""Data that took long to read, kept as one safetensors file beside their source, or in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from landscape.files import atomic_write, remove_partial
from landscape.manifest import hash_of_settings, hash_of_tensor

FORMAT = 1  # of what is kept; another number makes the files of before be read anew
_DTYPES = {torch.uint8: "U8", torch.int64: "I64"}


@dataclass(frozen=True)
class Decoded:
    """Data as they are kept.

    Attributes:
        tensors: by name; of a file they are views of the mapped file, which is read where they are touched.
        facts: about them, what JSON can hold.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @cached_property
    def content(self) -> str:
        """A hash of all of it."""
        hashes = {name: hash_of_tensor(tensor) for name, tensor in self.tensors.items()}
        return hash_of_settings({"tensors": hashes, "facts": dict(self.facts)})


class Cache:
    """Where the decoded data of a folder are kept, under a name that says what they were made of.

    The name has a hash of the settings and one of the source: of each file its name, its size, and the times at which
    its content and its entry were last changed. The second of these cannot be set back, as copying and unpacking set
    back the first, so that a file replaced by one of the same size and time is noticed without reading it.

    Args:
        name: of the data.
        folder: that the source is in.
        files: the source.
        settings: what decides the data besides the source.
    """

    def __init__(self, name: str, folder: Path, files: Sequence[Path], settings: Mapping[str, Any]) -> None:
        self._prefix = f"msam-{name}-{hash_of_settings({'format': FORMAT, **settings})}-"
        facts = [(file, file.stat()) for file in files]
        source = [
            [str(file.relative_to(folder)), about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            for file, about in facts
        ]
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        own = home / "msam-landscape" / hash_of_settings({"folder": str(folder.resolve())})
        key = hash_of_settings({"source": source})
        self.places = [place / f"{self._prefix}{key}.safetensors" for place in (folder, own)]

    def get(self, make: Callable[[], Decoded]) -> Decoded:
        """What is kept, or else what is made, which is then kept.

        Where it can be kept nowhere, a warning says so. A damaged file is made anew, with a warning.

        Args:
            make: reads the source.
        """
        for place in self.places:
            if place.is_file():
                try:
                    return read(place)
                except ValueError as error:
                    warnings.warn(f"{error}; it is made anew from its source", stacklevel=2)
        made = make()
        failures = []
        for place in self.places:
            try:
                write(made, place)
            except OSError as error:
                failures.append(f"{place.parent}: {error.strerror or error}")
                continue
            for old in place.parent.glob(f"{self._prefix}*.safetensors"):
                if old != place:  # of the source as it was before
                    with contextlib.suppress(OSError):
                        old.unlink()
            remove_partial(place.parent)
            return read(place)  # mapped, so that what was made can be given back
        warnings.warn(f"the decoded data cannot be kept ({'; '.join(failures)})", stacklevel=2)
        return made


def write(data: Decoded, file: Path) -> None:
    """Write data whole or not at all, tensor by tensor; the library's own writer takes memory for all of them again.

    Raises:
        OSError: if the file cannot be written.
    """
    metadata = {"facts": json.dumps(dict(data.facts), sort_keys=True), "content": data.content}
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(data.tensors, key=lambda name: -data.tensors[name].element_size())  # so that all are aligned
    start = 0
    for name in ordered:
        tensor = data.tensors[name]
        stop = start + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, stop]}
        start = stop
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with atomic_write(file) as stream:
        stream.write(struct.pack("<Q", len(raw)))
        stream.write(raw)
        for name in ordered:
            stream.write(data.tensors[name].contiguous().reshape(-1).numpy().data)


def read(file: Path) -> Decoded:
    """What was written, mapped and not copied.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        found = Decoded(tensors, json.loads(metadata["facts"]))
        if found.content != metadata["content"]:
            raise ValueError("its content is not what was written")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"the cache {file} is damaged ({error})") from None
    return found
