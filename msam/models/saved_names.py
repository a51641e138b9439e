"""Names that the transformers library saves weights under, which are not those of its models everywhere."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msam.fitting import ALL_WRAPPERS, DEEPEST
from msam.models.huggingface import quietly


@dataclass(frozen=True)
class Renamed:
    """What a file holds when the tensors of one mapping in it have the names of the model.

    Attributes:
        entry: the mapping, by a dotted name; empty for the outermost.
        content: of the file, that mapping replaced.
        number: of names that are others now.
        stripped: parts of wrappers that were taken out of names before that -> of how many.
    """

    entry: str
    content: dict[str, Any]
    number: int
    stripped: Mapping[str, int]


def as_transformers_reads(model: nn.Module, content: Mapping[str, Any], *, key: str = "") -> list[Renamed]:
    """Where in a file the transformers library finds all tensors of a model of its own under names that it knows.

    It saves some models, as ViT, under the names that their weights had in its older versions, and renames them when
    they are loaded; files of these versions have no other names.

    Args:
        model: that the weights are for; it stays as it is.
        content: of the file, names to tensors, nested mappings and other things.
        key: the entry to look in; all of them when empty.

    Returns:
        One for each mapping; none where the model is not the library's, or a name or a shape is not one that it knows.
    """
    library: Any = sys.modules.get("transformers")  # which a model of it has imported
    if library is None or not isinstance(model, library.PreTrainedModel):
        return []
    found, least = [], len(list(model.parameters())) // 2
    for path, mapping in _mappings(content):
        entry = ".".join(path)
        tensors = {name: tensor for name, tensor in mapping.items() if isinstance(tensor, Tensor)}
        if len(tensors) < least or key not in ("", entry):
            continue
        stripped: Counter[str] = Counter()
        read = _read(model, tensors)
        if read is None:
            plain, stripped = _unwrapped(tensors)
            read = _read(model, plain) if stripped and len(plain) == len(tensors) else None
            tensors = plain
        if read is not None:
            others = {name: value for name, value in mapping.items() if not isinstance(value, Tensor)}
            number = len(tensors.keys() - read.keys())
            found.append(Renamed(entry, _replaced(content, path, {**others, **read}), number, stripped))
    return found


def _mappings(content: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All mappings in a file, with the names that lead there."""
    yield path, content
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and len(path) < DEEPEST:  # it may hold itself
            yield from _mappings(value, (*path, name))


def _replaced(content: Mapping[str, Any], path: tuple[str, ...], mapping: dict[str, Any]) -> dict[str, Any]:
    if not path:
        return mapping
    return {**content, path[0]: _replaced(content[path[0]], path[1:], mapping)}


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Counter[str]]:
    """Names without the parts that wrappers put in, and of how many each was taken out."""
    stripped = Counter(f"{part}." for name in tensors for part in name.split(".") if part in ALL_WRAPPERS)
    plain = (".".join(part for part in name.split(".") if part not in ALL_WRAPPERS) for name in tensors)
    return dict(zip(plain, tensors.values(), strict=True)), stripped


def _read(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors by the names of the model; None where the library does not know all of them."""
    dtypes = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    if not dtypes:
        return None
    with quietly(), torch.random.fork_rng([]), torch.device("cpu"):
        try:
            read, said = type(model).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=copy.deepcopy(model.config),
                state_dict=dict(tensors),
                dtype=dtypes[0],
                ignore_mismatched_sizes=True,  # which are said
                output_loading_info=True,
            )
        except Exception:  # of any type; that the names differ is said without it
            return None
    differing = any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return None if differing else dict(read.state_dict())
