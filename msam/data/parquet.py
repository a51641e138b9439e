"""Rows and columns of the parquet files that the hub serves; pyarrow is imported when one is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msam.extras import extra

_ROWS = 256  # that are in memory at a time


class Table:
    """A parquet file whose columns are found by what they may be called.

    Args:
        file: the file.
        columns: for each column its possible names; the first that is there is taken.

    Attributes:
        names: of the columns that were found.

    Raises:
        ValueError: if pyarrow is not installed, the file is damaged, or a column is missing.
    """

    def __init__(self, file: Path, *columns: Sequence[str]) -> None:
        with extra("data", "parquet files"):
            import pyarrow
            import pyarrow.parquet
        self.file, self._failures = file, (pyarrow.ArrowException, OSError, UnicodeDecodeError)  # of a damaged text
        try:
            self._opened = pyarrow.parquet.ParquetFile(file)
        except self._failures as error:
            raise self._damaged(error) from None
        there = self._opened.schema_arrow.names
        self.names = [next((name for name in options if name in there), "") for options in columns]
        for name, options in zip(self.names, columns, strict=True):
            if not name:
                wanted = " or ".join(map(repr, options))
                raise ValueError(f"{file} has no column {wanted}; its columns are: {', '.join(there)}")

    def __len__(self) -> int:
        return int(self._opened.metadata.num_rows)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The entries of the columns, row by row, as Python objects.

        Raises:
            ValueError: if the file is damaged.
        """
        batches = self._opened.iter_batches(batch_size=_ROWS, columns=self.names)
        while True:
            try:
                batch = next(batches, None)
                columns = [] if batch is None else [batch.column(name).to_pylist() for name in self.names]
            except self._failures as error:
                raise self._damaged(error) from None
            if batch is None:
                return
            yield from zip(*columns, strict=True)

    def close(self) -> None:
        """Let the file go."""
        self._opened.close()

    def _damaged(self, error: Exception) -> ValueError:
        said = " ".join(str(error).split())[:200].rstrip(". ")
        return ValueError(f"{self.file} is not a whole parquet file ({said}); copy or download it again")


def columns(path: str | Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns of a parquet file, as lists of Python values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, lacks a column, or its reader is not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no parquet file at {path}")
    table = Table(Path(path), *([name] for name in names))
    rows = list(table.rows())
    table.close()
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
