"""Checkpoints that other programs wrote: safetensors and torch files, whole or in shards, read without unpickling."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msam.checkpoints import is_safetensors, read_state, read_weights

# In the order in which the transformers library looks for them: an index may be left of what is in one file by now.
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SCALAR = np.float64(0).__reduce__()[0]  # what makes a number of numpy's
# Besides tensors and containers; these hold values, and building one runs nothing else. Settings and scores of training
# are often kept so, beside the weights.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # the name in files that numpy 1 wrote
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
]


def read_foreign(path: str | Path) -> Mapping[str, Any]:
    """What is in a checkpoint from elsewhere: names of tensors, or nested mappings of them.

    Args:
        path: a safetensors file; a torch file, which is read with ``weights_only=True``; the index of a sharded one,
            ``*.index.json``; or a folder with one of these under the name that Hugging Face gives it.

    Raises:
        FileNotFoundError: if it, or a shard of it, is not there.
        ValueError: if it is truncated, of another format, a pickle that would run code, or no mapping, or if shards
            and index do not fit together.
    """
    path = whole(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    return _read_file(path)


def whole(path: str | Path) -> Path:
    """The file that stands for a checkpoint: the path itself, or what a folder has.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint at {path}")
        return path
    found = [path / name for name in _FILES if (path / name).is_file()]
    if found:
        return found[0]
    what = "a run; name it as RUN" if (path / "checkpoints").is_dir() else "a folder without a checkpoint in it"
    raise FileNotFoundError(f"{path} is {what}; weights are a file, or a folder that has {' or '.join(_FILES)}")


def split_key(text: str | Path) -> tuple[Path, str]:
    """A checkpoint and the entry of it that is meant, from ``FILE`` or ``FILE:ENTRY``."""
    file, _, key = str(text).rpartition(":")
    return (Path(file), key) if file and key and not Path(text).exists() and Path(file).exists() else (Path(text), "")


def digest(path: str | Path) -> str:
    """The SHA-256 of a checkpoint, 64 hexadecimal digits; of a sharded one that of its index and all its shards."""
    path = whole(path)
    if not path.name.endswith(".index.json"):
        return _digest_of_file(path)
    parts = [path, *(path.parent / name for name in dict.fromkeys(_index(path)[0].values()))]
    return hashlib.sha256("".join(_digest_of_file(part) for part in parts).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_file(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; the copy was cut off, or nothing was saved. Copy or save it again")
    if is_safetensors(path):
        return read_weights(path)
    with torch.serialization.safe_globals(_HARMLESS):
        content = read_state(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not names of tensors; save model.state_dict()")
    return content


def _index(path: Path) -> tuple[dict[str, str], int | None]:
    """The shard that each name is in, and the bytes of all tensors where the index says them.

    Raises:
        FileNotFoundError: naming the shards that are missing.
        ValueError: if the index is damaged, or names something other than a file beside it.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        shards, size = written["weight_map"], (written.get("metadata") or {}).get("total_size")
        size = None if size is None else int(size)
        names = sorted(set(shards.values()))
        fits = bool(names) and all(isinstance(name, str) and Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not the index of a sharded checkpoint ({error!r}); copy it again") from None
    if not fits:
        raise ValueError(f"{path} does not name files beside it; its weight_map must be names of shards in its folder")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"of the {len(names)} shards that {path} names {len(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing: {', '.join(missing)}; put all of them beside it"
        )
    return shards, size


def _read_shards(path: Path) -> dict[str, Tensor]:
    shards, size = _index(path)
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(shards.values()):
        content = _read_file(path.parent / name)
        promised = {key for key, shard in shards.items() if shard == name}
        if promised != content.keys():
            differing = sorted(promised ^ content.keys())
            raise ValueError(
                f"the shard {path.parent / name} and {path.name} differ in {', '.join(differing[:5])}"
                f"{' ...' if len(differing) > 5 else ''}; they are not of one checkpoint. Copy both again"
            )
        found |= content
    there = sum(_sizes(found))
    if size is not None and there != size:
        raise ValueError(
            f"the shards beside {path} hold {there} bytes of tensors, and it says {size}; they are not of one "
            "checkpoint, or were cut off. Copy them again"
        )
    return found


def _sizes(tensors: Mapping[str, Any]) -> Iterator[int]:
    """The bytes of each tensor; one that has two names counts once."""
    seen = set()
    for tensor in tensors.values():
        if isinstance(tensor, Tensor) and (key := (tensor.data_ptr(), tensor.shape, tensor.dtype)) not in seen:
            seen.add(key)
            yield tensor.numel() * tensor.element_size()
