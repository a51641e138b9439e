"""Little data sets of text, written on the spot as the hub serves them, and little models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msam.tasks.glue import GLUE

GOOD, BAD = ("warm", "bright", "lovely", "fine"), ("dull", "cold", "empty", "loud")
SIZES = {"train": 23, "validation": 9}


def sentences(number: int, *, classes: int = 2) -> list[tuple[str, int]]:
    """Sentences of two to six words, whose first says what their class is."""
    found = []
    for row in range(number):
        label = row % classes
        word = (*GOOD, *BAD)[(row // classes % 4 + 4 * label) % 8]
        found.append((" ".join([word, *(["Film", "is", "a", "story"][: 1 + row % 5])]), label))
    return found


def write_table(path: Path, table: dict[str, list[Any]]) -> Path:
    """A parquet file."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra data is not installed")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(table), path)
    return path


def glue_table(name: str, number: int) -> dict[str, list[Any]]:
    """Columns as those of a task of GLUE."""
    pytest.importorskip("tokenizers", reason="the extra hf is not installed")
    kind = GLUE[name]
    rows = sentences(number, classes=kind.classes or 2)
    table: dict[str, list[Any]] = {column: [text for text, _ in rows] for column in kind.columns}
    if len(kind.columns) == 2:
        table[kind.columns[1]] = [f"{text} so it goes on" for text, _ in rows]
    table["label"] = [label if kind.classes else 1.25 * label for _, label in rows]
    return table | {"idx": list(range(number))}


def write_glue(folder: Path, name: str) -> Path:
    """A task of GLUE, 23 training sentences and 9 to test on, in files as they are called on the hub."""
    for split, number in SIZES.items():
        part = GLUE[name].tested_on if split == "validation" else split
        write_table(folder / f"{part}-00000-of-00001.parquet", glue_table(name, number))
    return folder


def save_config(folder: Path, kind: str, **settings: Any) -> Path:
    """A folder with the config of a little model, and nothing else."""
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    small = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    getattr(transformers, f"{kind}Config")(**(small | settings)).save_pretrained(folder)
    return folder


def save_model(folder: Path, kind: str, **settings: Any) -> Any:
    """A folder with a little model and its weights; the model."""
    import torch
    import transformers

    save_config(folder, kind.partition("For")[0].removesuffix("LMHeadModel"), **settings)
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        model = getattr(transformers, kind)(config)
    model.save_pretrained(folder)
    return model
