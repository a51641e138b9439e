"""Names for functions, layers and settings that two of them share only if they do the same, as far as can be seen.

A name is readable and ends in hashes where values are long: tensors by their values, functions by their code and by
what they capture. It is best effort: what a function reads from elsewhere than its arguments, its closure and the
values of its module is not seen, and the code of one function differs between versions of Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from torch import Tensor, nn

from landscape.manifest import hash_of_tensor

LONGEST = 200  # characters of a list of values
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
_VALUES = (*_PLAIN, Tensor, np.ndarray, np.generic, Mapping, Sequence, Set)
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, nn.Module)
_RECORDS = (types.SimpleNamespace, argparse.Namespace)
_VERSIONED = ("torch", "numpy", "builtins", "landscape", "math", "operator", "functools")


def name_of(value: object) -> str:
    """A name that a person recognises in a manifest and that says how ``value`` is set.

    >>> name_of(nn.functional.cross_entropy)
    'cross_entropy'
    >>> name_of(functools.partial(nn.functional.cross_entropy, ignore_index=0))
    'cross_entropy(ignore_index=0)'
    """
    return _Namer().name(value)


class _Namer:
    """Names a value and all in it; what it comes to a second time, as in a cycle, it calls by its type."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def name(self, value: object, *, whole: bool = True) -> str:
        """The name of a value; of an object without a known meaning its type, unless it is wanted whole."""
        if isinstance(value, _PLAIN):
            return _short(repr(value))
        if isinstance(value, Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} {hash_of_tensor(value)[:16]}"
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            raw = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            return f"{array.dtype}{list(array.shape)} {_hash(raw)}"
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, type) or id(value) in self._seen:
            return getattr(value, "__qualname__", type(value).__qualname__)
        self._seen.add(id(value))
        if isinstance(value, Mapping | Set | Sequence):
            text = self._container(value)
            self._seen.discard(id(value))  # equal ones may be one object or several
            return text
        if isinstance(value, functools.partial):
            return f"{self.name(value.func)}({', '.join([*map(self.name, value.args), *self._items(value.keywords)])})"
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return f"{self.name(value.__self__)}.{self.name(value.__func__)}"
        if isinstance(value, nn.Module):
            settings = {key: part for key, part in vars(value).items() if not key.startswith("_") and key != "training"}
            settings |= dict(value.named_parameters(recurse=False)) | dict(value.named_buffers(recurse=False))
            return self._instance(value, settings | dict(value.named_children()), type(value).forward)
        return self._object(value, whole=whole)

    def _container(self, value: Mapping[Any, Any] | Set[Any] | Sequence[Any]) -> str:
        if isinstance(value, Mapping):
            return _short(f"{{{', '.join(self._items(value))}}}")
        names = [self.name(part, whole=False) for part in value]
        return _short(f"{{{', '.join(sorted(names))}}}" if isinstance(value, Set) else f"[{', '.join(names)}]")

    def _object(self, value: object, *, whole: bool) -> str:
        if _versioned(type(value)):  # it says what it is, or it is a function that is built in
            text = repr(value)
            return text if " at 0x" not in text else getattr(value, "__qualname__", type(value).__qualname__)
        if whole or dataclasses.is_dataclass(value) or isinstance(value, _RECORDS):
            call = inspect.getattr_static(type(value), "__call__", None)
            return self._instance(value, getattr(value, "__dict__", {}), call)
        return type(value).__qualname__

    def _items(self, settings: Mapping[Any, Any]) -> list[str]:
        return sorted(f"{key}={self.name(part, whole=False)}" for key, part in settings.items())

    def _instance(self, value: object, settings: Mapping[str, Any], call: object) -> str:
        """The class with its settings, and its code unless a known package is its author."""
        name = type(value).__qualname__
        if isinstance(call, types.FunctionType) and not _versioned(call):
            name = self.name(call) if id(call) not in self._seen else name
        return f"{name}({', '.join(self._items(settings))})"

    def _function(self, function: types.FunctionType) -> str:
        if _versioned(function):
            return function.__qualname__
        read = [*self._code(function.__code__), self.name(function.__defaults__), self.name(function.__kwdefaults__)]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                read.append(f"{name}={self.name(cell.cell_contents, whole=False)}")
            except ValueError:  # not assigned yet
                read.append(name)
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, (*_VALUES, *_FUNCTIONS, *_RECORDS)) or dataclasses.is_dataclass(value):
                read.append(f"{name}={self.name(value)}")
        return f"{function.__qualname__} {_hash(repr(read).encode())}"

    def _code(self, code: types.CodeType) -> list[str]:
        """What a piece of code does, without where it stands."""
        read = [code.co_code.hex(), *code.co_names]
        for part in code.co_consts:
            read += self._code(part) if isinstance(part, types.CodeType) else [self.name(part)]
        return read


def _names(code: types.CodeType) -> list[str]:
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return sorted({*code.co_names, *(name for part in inner for name in _names(part))})


def _versioned(author: Any) -> bool:
    """Whether a package wrote it whose version is in the manifest, so that its name says what it does."""
    return (getattr(author, "__module__", None) or "").split(".")[0] in _VERSIONED


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:20]}... {_hash(text.encode())}"


def _hash(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=8).hexdigest()
