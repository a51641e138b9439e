"""Where a number comes from: hashes of weights, versions of what computed it, and when two numbers may be compared."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Manifest = Mapping[str, Any]
_LONGEST = 60  # characters of a value in a sentence


def hash_of_tensor(tensor: Tensor) -> str:
    """A hash of dtype, shape and values."""
    import torch

    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    found = hashlib.blake2b(header, digest_size=16)
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    found.update(raw.data)  # not copied: there may be much of it
    return found.hexdigest()


def hash_of_settings(settings: Mapping[str, Any]) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def versions() -> dict[str, str]:
    """The versions that decide a number's last digits."""
    found = {"python": platform.python_version()}
    return found | {package: _version(package) for package in ("msam-landscape", "torch", "numpy", "scipy")}


@functools.cache  # it takes 10 ms to look up
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def protocol(manifest: Manifest) -> dict[str, Any]:
    """The part of a manifest that must agree between two numbers put side by side: all but the subject and machine."""
    return {key: value for key, value in manifest.items() if key not in ("subject", "machine")}


def differences(first: Manifest, second: Manifest) -> list[str]:
    """The entries of two protocols that differ, each as ``name: one value, other value``; empty when comparable.

    >>> differences({"objective": {"split": "train"}}, {"objective": {"split": "test"}, "machine": {}})
    ["objective.split: 'train' or 'test'"]
    """
    left, right = _flat(protocol(first)), _flat(protocol(second))
    return [
        f"{name}: {_either(left.get(name), right.get(name))}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def require_comparable(manifests: Mapping[str, Manifest]) -> None:
    """Manifests, by the name of what they belong to, must agree in their protocol.

    Raises:
        ValueError: naming two of them and everything they differ in.
    """
    names = list(manifests)
    for name in names[1:]:
        found = differences(manifests[names[0]], manifests[name])
        if found:
            raise ValueError(
                f"{names[0]} and {name} cannot be put side by side; they differ in {'; '.join(found)}. "
                "Compare what was measured with the same settings on the same data and a model of the same size."
            )


def _either(one: Any, other: Any) -> str:
    """Two values that differ, long ones shortened."""
    short = (_shortened(one), _shortened(other))
    if short[0] == short[1] and isinstance(one, list) and isinstance(other, list):
        place = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        return f"{short[0]}, of which number {place + 1} is {_shortened(one[place])} or {_shortened(other[place])}"
    return " or ".join(short)


def _shortened(value: Any) -> str:
    shown = repr(value)
    if len(shown) <= _LONGEST:
        return shown
    if isinstance(value, list):
        numbers = all(isinstance(entry, int | float) and math.isfinite(entry) for entry in value)
        return f"{len(value)} values" + (f" from {min(value):g} to {max(value):g}" if numbers else "")
    return f"{shown[: _LONGEST - 3]}..."


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
