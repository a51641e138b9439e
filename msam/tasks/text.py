"""A language model on plain text of the user's own: each token is told from those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from landscape.batches import Batch
from landscape.forward import supervised
from msam.data import Examples, at_random
from msam.data.places import present
from msam.data.splits import require_seed
from msam.data.text import plain_text
from msam.data.tokens import Kind
from msam.models.huggingface import from_folder
from msam.models.text import LanguageModel
from msam.tasks.task import Task
from msam.tasks.wording import folder_of_model, require_sizes, vocabulary_of

BUILT_IN = "transformer"
NO_TARGET = -100  # what cross-entropy leaves out unless told otherwise


def text(
    *,
    data: Path,
    model: str = BUILT_IN,
    length: int = 64,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    tied: bool = True,
    tokenizer: Kind | Path | None = None,
    vocabulary: int = 4000,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.0,
    train_examples: int | None = None,
    data_seed: int = 0,
    download: bool = False,
) -> Task:
    """A causal language model on a text, whose end is tested on, per token; from --data PATH, with msam-landscape[hf].

    Args:
        data: a text file in UTF-8, or a folder of .txt files, which are put together in the order of their names.
        model: "transformer", a small one that is built in, or hf:FOLDER, a Hugging Face causal language model: with the
            weights in the folder, or untrained where there is a config.json alone.
        length: tokens of a block; each but the first of the text is told from those before it in its block.
        width: of the transformer's vectors.
        depth: its blocks.
        heads: of its attention; they divide the width.
        dropout: share that it drops in training, from 0 to below 1.
        tied: whether the transformer's scores are products with the embeddings of the words.
        tokenizer: "pieces" or "words", trained on the training text, or a file or folder to read it from; that of the
            model's folder, or pieces, when left out.
        vocabulary: the most entries of a tokenizer that is trained.
        test_fraction: share of the text at its end that is tested on.
        validation_fraction: share before it that is set apart to choose settings by.
        train_examples: size of a random subset of the training blocks; all when left out.
        data_seed: of the subset.
        download: whether a model that is no folder here may be downloaded.
    """
    require_sizes(width=width, depth=depth, heads=heads, dropout=dropout)
    require_seed(data_seed)
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    if not (0 < test_fraction < 1 and 0 <= validation_fraction < 1 - test_fraction):
        raise ValueError(
            f"test_fraction must be above 0, validation_fraction 0 or more, and something must be left to train on; "
            f"got {test_fraction} and {validation_fraction}"
        )
    folder = folder_of_model(model, built_in=BUILT_IN, download=download)
    whole = plain_text(present(data))
    ends = [_between_words(whole, share) for share in (1 - test_fraction - validation_fraction, 1 - test_fraction)]
    parts = {"training": whole[: ends[0]], "validation": whole[ends[0] : ends[1]], "test": whole[ends[1] :]}
    words = vocabulary_of(
        tokenizer,
        parts["training"].splitlines(keepends=True),
        kind="pieces",
        size=vocabulary,
        lower=False,
        folder=folder,
    )
    found = {
        split: blocks(words.numbers(part), length, pad=words.pad, what=f"the {split} part of {data}")
        for split, part in parts.items()
        if split != "validation" or validation_fraction
    }
    train = found["training"]
    if train_examples is not None and train_examples != len(train):
        if not 1 <= train_examples < len(train):
            raise ValueError(f"train_examples must be between 1 and {len(train)}; got {train_examples}")
        train, _ = at_random(train, train_examples, seed=data_seed)
    ready = None
    if folder is not None:
        ready = from_folder(folder, kind="causal", words=words.size, pad=words.pad)
        if ready.limit is not None and ready.limit < length:
            raise ValueError(
                f"length {length} is more than the {ready.limit} tokens that {model} takes; choose at most these"
            )
        for part in (train, *found.values()):
            part.inputs["attention_mask"] = (part.targets != NO_TARGET).long()  # which the library asks for

    def transformer() -> nn.Module:
        return LanguageModel(
            vocabulary=words.size, places=length, width=width, depth=depth, heads=heads, dropout=dropout, tied=tied
        )

    counts = ", ".join(f"{int((part.targets != NO_TARGET).sum())} {split}" for split, part in found.items())
    about = f"{data}: {counts} tokens, one part after another; {len(train)} training blocks of {length}"
    return Task(
        "text",
        transformer if ready is None else ready,
        functional.cross_entropy,
        train,
        found["test"],
        "; ".join([about, words.about, *([] if ready is None else [ready.about])]),
        forward=next_token,
        validation=found.get("validation"),
        vocabulary=words.hash,
    )


def next_token(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """The scores of what comes next, ``(N, words, T)`` as the cross-entropy wants them, and what does, ``(N, T)``."""
    outputs, targets = supervised(model, batch)
    return outputs.transpose(1, 2), targets


def blocks(tokens: Tensor, length: int, *, pad: int, what: str = "the text") -> Examples:
    """Consecutive blocks of a text: inputs ``(n, length)``, and as targets the token after each.

    The last block is padded, with targets that cross-entropy leaves out: a loss per token is exact.

    Args:
        tokens: the text, ``(tokens,)``.
        length: of a block.
        pad: the number of the padding.
        what: the text is called, in an error.

    Raises:
        ValueError: if there are fewer than two tokens.

    >>> import torch
    >>> made = blocks(torch.arange(5), 3, pad=0)
    >>> made.inputs["input_ids"].tolist(), made.targets.tolist()
    ([[0, 1, 2], [3, 0, 0]], [[1, 2, 3], [4, -100, -100]])
    """
    number = len(tokens) - 1
    if number < 1:
        raise ValueError(f"{what} has {len(tokens)} tokens; there must be two at least: take a longer text or share")
    rows = -(-number // length)
    inputs, targets = (tokens.new_full((rows * length,), value) for value in (pad, NO_TARGET))
    inputs[:number], targets[:number] = tokens[:-1], tokens[1:]
    return Examples({"input_ids": inputs.view(rows, length)}, targets.view(rows, length))


def _between_words(text: str, share: float) -> int:
    """Where a share of a text ends, at a space or the end of a line."""
    place = int(share * len(text))
    while place < len(text) and not text[place].isspace():
        place += 1
    return place
