"""Texts with labels from parquet files, and plain texts: found in a folder, read, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from msam.data.parquet import columns
from msam.data.tokens import Text


@dataclass(frozen=True)
class Labelled:
    """Texts, or pairs of them, and a label for each.

    Attributes:
        texts: sentences, or pairs.
        labels: classes, ``(n,)`` of int64, or values, ``(n,)`` of float32.
    """

    texts: list[Text]
    labels: Tensor

    def taken(self, chosen: Tensor) -> Labelled:
        """Those with the given numbers, ``(k,)``."""
        return Labelled([self.texts[number] for number in chosen.tolist()], self.labels[chosen])


def files_of(folder: str | Path, patterns: Sequence[str], *, what: str, columns: Sequence[str]) -> list[Path]:
    """The files that match the first pattern that any file in a folder matches, in the order of their names.

    Args:
        folder: where to look.
        patterns: with wildcards, relative to the folder.
        what: the files are called, for the sentence.
        columns: they have, for the sentence.

    Raises:
        FileNotFoundError: if none matches; the sentence says what to put there.
    """
    folder = Path(folder)
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found
    where = "is no folder" if not folder.is_dir() else "has none of them"
    raise FileNotFoundError(
        f"there is no {what}: {folder} {where}; put {' or '.join(patterns)} there, with the columns "
        f"{', '.join(columns)}, as the hub serves them"
    )


def labelled(paths: Sequence[Path], names: Sequence[str], *, classes: int | None) -> Labelled:
    """The texts and labels of parquet files, one after another.

    Args:
        paths: of the files.
        names: columns of the texts, one or two; labels are in ``label``.
        classes: number of classes, which are numbered from 0; None where labels are values.

    Raises:
        ValueError: if a text or a label is missing or out of range, or there is none at all.
    """
    texts: list[Text] = []
    labels: list[float] = []
    for path in paths:
        table = columns(path, [*names, "label"])
        for name in names:
            for row, text in enumerate(table[name], start=1):
                if not isinstance(text, str):
                    raise ValueError(f"row {row} of the column {name!r} in {path} is no text: {text!r}")
        kinds = (int,) if classes is not None else (int, float)
        for row, label in enumerate(table["label"], start=1):
            if not isinstance(label, kinds) or not (0 <= label < classes if classes is not None else isfinite(label)):
                wanted = "a number" if classes is None else f"a class from 0 to {classes - 1}"
                hidden = " (the labels of GLUE's test data are hidden)" if label == -1 else ""
                raise ValueError(f"the label in row {row} of {path} is {label!r}{hidden}; it must be {wanted}")
        texts += table[names[0]] if len(names) == 1 else list(zip(*(table[name] for name in names), strict=True))
        labels += table["label"]
    if not texts:
        raise ValueError(f"there are no rows in {', '.join(map(str, paths))}; take another copy")
    return Labelled(texts, torch.tensor(labels, dtype=torch.float32 if classes is None else torch.long))


def plain_text(path: str | Path) -> str:
    """A text file, or all ``.txt`` files of a folder in the order of their names, with a line between.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a file is no text in UTF-8, or all are empty.
    """
    path = Path(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise FileNotFoundError(f"there is no text at {path}; name a text file, or a folder with .txt files")
    parts = []
    for file in files:
        try:
            parts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text in UTF-8 (byte {error.start}); convert it") from None
    text = "\n".join(parts)
    if not text.strip():
        raise ValueError(f"there is no text in {path}; it is empty")
    return text
