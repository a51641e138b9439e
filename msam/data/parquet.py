"""Columns of parquet files, as the hub serves data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msam.extras import extra


def columns(path: str | Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns of a parquet file, as lists of Python values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, lacks a column, or its reader is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no parquet file at {path}")
    with extra("data", "parquet files"):
        import pyarrow
        import pyarrow.parquet
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            missing = [name for name in names if name not in there]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}; its columns are: {', '.join(there)}")
            table = file.read(columns=list(names))
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole parquet file ({reason}); download it again") from None
    return {name: table.column(name).to_pylist() for name in names}
