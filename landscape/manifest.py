"""Where a number comes from: hashes of weights, versions of what computed it, and when two numbers may be compared."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Manifest = Mapping[str, Any]


def hash_of_tensor(tensor: Tensor) -> str:
    """A hash of dtype, shape and values."""
    import torch

    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(header + raw.tobytes(), digest_size=16).hexdigest()


def hash_of_settings(settings: Mapping[str, Any]) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def versions() -> dict[str, str]:
    """The versions that decide a number's last digits."""
    found = {"python": platform.python_version()}
    for package in ("msam-landscape", "torch", "numpy", "scipy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


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
        f"{name}: {left.get(name)!r} or {right.get(name)!r}"
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


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
