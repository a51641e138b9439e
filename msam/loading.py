"""Weights from elsewhere, put into a model; every liberty that was taken is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.checks import require_numbers
from msam.checkpoints import load_weights
from msam.fitting import Fit, NamesDifferError, fitted, nearest, several
from msam.foreign import read_foreign
from msam.models.saved_names import as_transformers_reads

# What is counted in training, and decides no output: steps of batch norm, and of torch.optim.swa_utils.AveragedModel.
_COUNTS = ("num_batches_tracked", "n_averaged")


@dataclass(frozen=True)
class Loaded:
    """How a checkpoint from elsewhere was put into a model.

    Attributes:
        source: the file or the folder.
        entry: the mapping in it that the weights lie in; empty for the outermost.
        num_tensors: that were put into the model.
        remarks: what was stripped, left out, filled in or converted, a sentence each; none where names and kinds
            were those of the model.
    """

    source: str
    entry: str
    num_tensors: int
    remarks: tuple[str, ...]


def load_foreign(model: nn.Module, path: str | Path, *, key: str = "") -> Loaded:
    """Put the weights of a checkpoint that any program wrote into a model; all of them, or none.

    The weights are looked for among nested mappings (``state_dict``, ``model``, ``ema`` ...). What their names begin
    with (``module.``, ``model.``) and what wrappers put in (``_orig_mod.``) is stripped where the names are then those
    of the model. Half precision becomes the dtype of the model. Two things may differ: counts such as
    ``num_batches_tracked``, which decide no output, and tied weights, of which one name is enough. Names that the
    transformers library saves a model of its own under, where they are other ones, are renamed as it does.

    Args:
        model: what the weights are for.
        path: a safetensors file, a torch file, the ``*.index.json`` of a sharded one, or a folder with one of them.
        key: the entry of the file to take, or what names must begin with; needed where several fit.

    Raises:
        FileNotFoundError: if the file, or a shard of it, is not there.
        NamesDifferError: a ``ValueError``, if names, shapes or kinds differ; it lists all of them.
        ValueError: if the file is truncated, a pickle that would run code, holds several sets of weights, or a number
            that is not finite; or if the model has no weights, or it, or the file, has shapes and no numbers.

    >>> import tempfile
    >>> model, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 3, "state_dict": nn.DataParallel(model).state_dict()}, f"{folder}/a.pt")
    ...     loaded = load_foreign(fresh, f"{folder}/a.pt")
    >>> loaded.remarks
    ("the weights are its entry 'state_dict'", "'module.' is stripped from 2 names", 'left out: epoch')
    >>> torch.equal(model.weight, fresh.weight)
    True
    """
    source, content = str(path), read_foreign(path)
    try:
        return _load(model, content, source=source, key=key)
    except NamesDifferError:
        found = as_transformers_reads(model, content, key=key)
        if not found:
            raise
    if len(found) > 1:
        raise ValueError(several(source, [renamed.entry for renamed in found if renamed.entry]))
    (renamed,) = found
    loaded = _load(model, renamed.content, source=source, key=key)
    said = f"{renamed.number} names are those that transformers saves a {type(model).__name__} under; it renames them"
    return replace(loaded, remarks=(said, *_stripped(renamed.stripped), *loaded.remarks))


def _load(model: nn.Module, content: Mapping[str, Any], *, source: str, key: str) -> Loaded:
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    if not own:
        raise ValueError(f"the model ({type(model).__name__}) has no weights that those of {source} could be put into")
    require_numbers((f"{name} of the model", tensor) for name, tensor in own.items())
    fit = fitted(content, own, source=source, key=key)
    require_numbers((f"{name} of {source}", tensor) for name, tensor in fit.tensors.items())
    tensors, remarks = dict(fit.tensors), _said(fit, key)
    remarks += _completed(tensors, own, model)
    unexpected, dropped = _without_own_buffers(fit.unexpected, model)
    remarks += dropped
    _require_same(tensors, unexpected, own, source=source)
    remarks += _conversions(tensors, own)
    tensors = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    _require_numbers(tensors, dict(model.named_parameters(remove_duplicate=False)), source=source)
    _require_ties(fit.tensors, own, source=source)
    load_weights(model, tensors, source=source)
    return Loaded(source, fit.entry, len(fit.tensors), tuple(remarks))


def _said(fit: Fit, key: str) -> list[str]:
    found = [f"the weights are its entry {fit.entry!r}"] if fit.entry and fit.entry != key else []
    found += _stripped(fit.stripped)
    if fit.left_out:
        shown = ", ".join(fit.left_out[:8])
        found.append(f"left out: {shown}" + (f" and {len(fit.left_out) - 8} more" if len(fit.left_out) > 8 else ""))
    return found


def _stripped(parts: Mapping[str, int]) -> list[str]:
    return [f"{part!r} is stripped from {number} names" for part, number in parts.items()]


def _completed(tensors: dict[str, Tensor], own: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Fill in what a file may lack: the other names of tied tensors, and counts."""
    remarks = []
    tied = [
        (name, next((other for other in names if other in tensors), None))
        for names in _ties(own)
        for name in names
        if name not in tensors
    ]
    for name, other in tied:
        if other is not None:
            tensors[name] = tensors[other]
            remarks.append(f"{name} is not in it; the model ties it to {other}")
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    counts = [name for name in own if name in buffers - tensors.keys() and name.rpartition(".")[2] in _COUNTS]
    if counts:
        tensors.update({name: own[name] for name in counts})
        kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in counts))
        remarks.append(f"{len(counts)} counts are not in it ({kinds}), which decide no output; they stay at the start")
    return remarks


def _without_own_buffers(unexpected: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Without counts, and buffers that the model makes by itself with the very same values."""
    made = dict(model.named_buffers(remove_duplicate=False))
    kept, same, counts = {}, [], []
    for name, tensor in unexpected.items():
        if name.rpartition(".")[2] in _COUNTS and tensor.numel() == 1:
            counts.append(name)
        elif name in made and torch.equal(made[name].cpu(), tensor):
            same.append(name)
        else:
            kept[name] = tensor
    remarks = [f"left out: counts of steps, {', '.join(counts)}"] if counts else []
    remarks += [f"left out: buffers that the model makes by itself, {', '.join(same)}"] if same else []
    return kept, remarks


def _require_same(
    tensors: Mapping[str, Tensor], unexpected: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: str
) -> None:
    missing = {name: own[name] for name in own if name not in tensors}
    reshaped = []
    for name, tensor in tensors.items():
        like = own[name]
        if tensor.shape != like.shape:
            reshaped.append(f"{name} has shape {tuple(tensor.shape)} and should have {tuple(like.shape)}")
        elif _kind(tensor) != _kind(like):
            reshaped.append(
                f"{name} is {_kind(tensor)} ({_named(tensor.dtype)}) and should be {_kind(like)} ({_named(like.dtype)})"
            )
    if missing or unexpected or reshaped:
        near = nearest(unexpected, missing)
        raise NamesDifferError(source, missing=[*missing], unexpected=near, reshaped=reshaped)


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized"
    return "complex" if tensor.is_complex() else "of floats" if tensor.is_floating_point() else "of integers"


def _require_numbers(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, source: str) -> None:
    """Weights must be finite, and buffers numbers: a mask may hold infinities."""
    lost = [
        name
        for name, tensor in tensors.items()
        if not bool(torch.isfinite(tensor).all() if name in parameters else ~torch.isnan(tensor).any())
    ]
    if lost:
        shown = f"{', '.join(lost[:5])}{f' and {len(lost) - 5} more' if len(lost) > 5 else ''}"
        raise ValueError(f"{source} holds numbers that are not finite, in {shown}; use a checkpoint from before that")


def _ties(own: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor that has several."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in own.items():
        if tensor.numel():
            groups.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _require_ties(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], *, source: str) -> None:
    """What a model ties must be equal in the file: or else one of the two would be lost."""
    for first, *others in _ties(own):
        for name in others:
            if first in tensors and name in tensors and not torch.equal(tensors[first], tensors[name]):
                raise ValueError(f"the model ties {first} and {name}, and {source} has different values for them")


def _conversions(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What changes in dtype; only to a longer one are values as they were."""
    pairs = Counter((tensor.dtype, own[name].dtype) for name, tensor in tensors.items())
    return [
        f"{number} tensors of {_named(theirs)} are converted to {_named(ours)}"
        + (", which rounds them" if theirs.is_floating_point and theirs.itemsize >= ours.itemsize else "")
        for (theirs, ours), number in pairs.items()
        if theirs != ours
    ]


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
