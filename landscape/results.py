"""Answers: frozen, with their uncertainty and their provenance, in one file format. No torch in here.

A result is saved as ``.npz``: its arrays, and one JSON header with its scalars and its manifest. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from landscape.files import atomic_write
from landscape.frozen import frozen

Array = npt.NDArray[Any]
FORMAT = 1
_HEADER = "header"
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)


class Line(NamedTuple):
    """One number of a result for a person to read; its uncertainty is None where it has none, NaN where unknown."""

    quantity: str
    value: float
    uncertainty: float | None = None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of all answers. Nothing in them can be changed, and two are equal when all they hold is, NaN with NaN.

    Attributes:
        manifest: what was measured, on what, and by which versions.
    """

    manifest: Mapping[str, Any] = field(repr=False, default_factory=dict)

    kinds: ClassVar[dict[str, type[Result]]] = {}
    title: ClassVar[str] = "result"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result.kinds[cls.__name__] = cls
        for name in ("__eq__", "__hash__"):  # or dataclass writes its own, which cannot compare arrays
            if name not in vars(cls):
                setattr(cls, name, getattr(Result, name))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        pairs = ((getattr(self, entry.name), getattr(other, entry.name)) for entry in dataclasses.fields(self))
        return all(_equal(one, two) for one, two in pairs)

    def __hash__(self) -> int:
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return hash((type(self), *((array.shape, array.dtype.str) for array in arrays)))

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", frozen(self.manifest))
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                fixed = value.copy()
                fixed.flags.writeable = False
                object.__setattr__(self, entry.name, fixed)

    def summary(self) -> dict[str, Any]:
        """The headline numbers by name, each beside its uncertainty: what a table shows and ``--json`` prints."""
        raise NotImplementedError

    def lines(self) -> list[Line]:
        """The headline numbers for a person."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The arrays as a tidy table, one row per number; one row in all where there is no array."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write to ``path`` (``.npz``), whole or not at all.

        Raises:
            OSError: if the file cannot be written; what stood there before is then untouched.
        """
        arrays, scalars = {}, {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                arrays[entry.name] = value
            elif entry.name != "manifest":
                scalars[entry.name] = value
        header = {"format": FORMAT, "kind": type(self).__name__, "manifest": dict(self.manifest), "scalars": scalars}
        encoded = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
        with atomic_write(path) as stream:
            np.savez_compressed(stream, **{_HEADER: encoded}, **arrays)  # type: ignore[arg-type]
        return Path(path)

    def save_table(self, path: str | Path) -> Path:
        """Write :meth:`to_frame` to ``path`` as CSV, whole or not at all.

        Raises:
            OSError: if the file cannot be written; what stood there before is then untouched.
        """
        with atomic_write(path) as stream:
            stream.write(self.to_frame().to_csv(index=False).encode())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result; its class is the one it was saved from. Nothing in the file is executed.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a whole result of this kind.
        """
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder and not a result; name a file, such as {path}/trace-....npz")
        try:
            with path.open("rb") as stream:
                if not zipfile.is_zipfile(
                    stream
                ):  # numpy would take it for a pickle, and say how to load that unsafely
                    raise ValueError("it is no whole .npz archive")
                stream.seek(0)
                with np.load(stream, allow_pickle=False) as archive:
                    header = json.loads(archive[_HEADER].tobytes())
                    arrays = {name: archive[name] for name in archive.files if name != _HEADER}
            kind, scalars, manifest = str(header["kind"]), dict(header["scalars"]), dict(header["manifest"])
            written = int(header["format"])
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no result at {path}") from None
        except (ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, *_BROKEN_ZIP) as error:
            raise ValueError(
                f"{path} is not a whole result file ({error}); only .npz files written by this package can be read. "
                "Measure again to replace it."
            ) from None
        import landscape.answers  # noqa: F401  (so that the kinds of this package are known)

        if written > FORMAT:
            raise ValueError(f"{path} was written by a newer version (format {written}); update the package")
        known = Result.kinds.get(kind)
        if known is None or not issubclass(known, cls):
            raise ValueError(f"{path} holds a {kind}; expected {cls.__name__}")
        try:
            return known(**arrays, **scalars, manifest=manifest)
        except TypeError as error:
            raise ValueError(f"{path} does not have the fields of a {kind} ({error}); measure again") from None


def require_one_kind(results: Mapping[str, Result]) -> None:
    """Results, by the name of what they belong to, must be answers to the same question.

    Raises:
        ValueError: naming two of them and their kinds.
    """
    names = list(results)
    for name in names[1:]:
        kinds = [type(results[names[0]]), type(results[name])]
        if kinds[0] is not kinds[1]:
            first, other = (repr(kind.title) for kind in kinds)
            raise ValueError(f"{names[0]} is of kind {first} and {name} of kind {other}; name results of one kind")


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        numbers = one.dtype.kind in "fc" and two.dtype.kind in "fc"
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=numbers)
    return bool(one == two or (one != one and two != two))
