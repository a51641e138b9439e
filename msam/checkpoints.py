"""What training writes: weights as safetensors, and the training state, which is read without unpickling."""

from __future__ import annotations

import difflib
import io
import json
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from landscape.checks import require_numbers
from landscape.files import atomic_write


def save_weights(model: nn.Module, path: str | Path, *, vocabulary: str = "") -> None:
    """Write parameters and buffers, whole or not at all; tied tensors are stored once.

    Args:
        model: whose they are.
        path: of the safetensors file.
        vocabulary: a hash of the words that the model was trained on the numbers of; empty where there are none.
    """
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            tied[name] = seen[key]
        else:
            seen[key] = name
            stored[name] = tensor.detach().cpu().contiguous()
    words = {"vocabulary": vocabulary} if vocabulary else {}
    raw = safetensors.torch.save(stored, metadata={"tied": json.dumps(tied), **words})
    with atomic_write(path) as stream:
        stream.write(raw)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint: safetensors, or a torch file of plain tensors. Nothing is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, of another format, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    if is_safetensors(path):
        try:
            with safetensors.safe_open(path, framework="pt") as archive:
                weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
                tied = json.loads((archive.metadata() or {}).get("tied", "{}"))
            return weights | {name: weights[first] for name, first in tied.items()}
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); train again, or use another") from None
    loaded = read_state(path)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} is not a mapping of names to tensors; save model.state_dict() alone")
    return dict(loaded)


def is_safetensors(path: Path) -> bool:
    """Whether a file is to be read as safetensors: by its name, or because it begins as such files do."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as stream:
        head = stream.read(9)  # the length of the header, and its first character
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def vocabulary_of(path: Path) -> str:
    """The hash of the vocabulary that a checkpoint was trained with; empty where it says none."""
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            return str((archive.metadata() or {}).get("vocabulary", ""))
    except (safetensors.SafetensorError, OSError):  # of another format
        return ""


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is there and of the length its header promises."""
    try:
        with safetensors.safe_open(path, framework="pt"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Put the tensors of a checkpoint into a model; all of them, or none.

    Raises:
        ValueError: if names or shapes differ, or there are no numbers; the model is then what it was.
    """
    own = model.state_dict()
    require_numbers((f"{name} of {source}", tensor) for name, tensor in weights.items() if isinstance(tensor, Tensor))
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [
        f"{name} has shape {tuple(weights[name].shape)} and should have {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if missing or unexpected or reshaped:
        details = [
            *(["it lacks " + _some(missing)] if missing else []),
            *(["it has " + _some(unexpected) + _near(unexpected, missing)] if unexpected else []),
            *sorted(reshaped)[:3],
        ]
        raise ValueError(f"{source} is of another architecture than the model: {'; '.join(details)}")
    model.load_state_dict(dict(weights))


def load_optimizer_state(optimizer: Optimizer, state: Any, *, fresh: Optimizer, source: str) -> None:
    """Put a saved state into an optimizer, and check its shapes, as torch itself does not.

    Args:
        optimizer: where to put it.
        state: its ``state_dict`` when it was saved, after at least one step.
        fresh: one of the same kind, over one other parameter of several entries; it is stepped, to see what is kept.
        source: where the state comes from, for the error.

    Raises:
        ValueError: if an entry is missing, there is no state at all, or a shape differs.
    """
    (group,) = fresh.param_groups
    (like,) = group["params"]
    like.grad = torch.zeros_like(like)
    fresh.step()
    try:
        optimizer.load_state_dict(state)
        missing = [name for name in group if any(name not in loaded for loaded in optimizer.param_groups)]
        if missing:
            raise ValueError(f"the setting {missing[0]} is missing")
        all_skipped = state.get("msam", {}).get("counted", {}).get("skipped_steps", 0) > 0
        if fresh.state and not optimizer.state and not all_skipped:
            raise ValueError("it is empty")
        for parameter, entries in optimizer.state.items():
            for name, value in fresh.state[like].items():
                shape = parameter.shape if value.shape == like.shape else value.shape
                found = entries.get(name)
                if not isinstance(found, Tensor) or found.shape != shape:
                    shown = tuple(found.shape) if isinstance(found, Tensor) else "none"
                    raise ValueError(f"the shape of {name} is {shown} and should be {tuple(shape)}")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{source} is not the training state of this run (of the optimizer: {error}); "
            "put it back, or train anew with --overwrite"
        ) from None


def save_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Write a training state of tensors, numbers, strings and containers, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())


def read_state(path: str | Path) -> Any:
    """Read what :func:`save_state` wrote, with ``weights_only=True``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, foreign, or a pickle that would run code, which is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no training state at {path}")
    with path.open("rb") as stream:
        looks_pickled = stream.read(4).startswith((b"PK\x03\x04", b"\x80")) or _is_old_pickle_with_code(stream)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch remarks on the pickle protocol of foreign files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its unpickler fails on foreign bytes with whatever exception they lead to
        if looks_pickled and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{path} is refused: it is a pickle with more than tensors in it, which could run code when loaded. "
                "Where it comes from a source you trust, convert it there to safetensors."
            ) from None
        reason = (str(error) or type(error).__name__).splitlines()[0] if looks_pickled else "it does not begin as one"
        raise ValueError(f"{path} is not a whole torch file ({reason}); use another checkpoint") from None


def _is_old_pickle_with_code(stream: BinaryIO) -> bool:
    """Whether a file is a whole pickle of protocol 0 or 1, which has no mark at its beginning, that names a class."""
    stream.seek(0)
    found = False
    try:
        for operation, _, _ in pickletools.genops(stream):  # reads, and runs nothing
            found = found or operation.name in ("GLOBAL", "INST", "STACK_GLOBAL")
    except Exception:  # it fails on foreign bytes with whatever exception they lead to
        return False
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _near(unexpected: list[str], missing: list[str]) -> str:
    pairs = [(name, difflib.get_close_matches(name, missing, n=1)) for name in unexpected[:3]]
    found = [f"{name} for {match[0]}" for name, match in pairs if match]
    return f" (perhaps {', '.join(found)})" if found else ""
