"""What the tasks on text share: which words they count, and the checks of their settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msam.data.tokens import Kind, Vocabulary, read_vocabulary, trained
from msam.models.huggingface import PREFIX, has_weights, local_folder


def folder_of_model(model: str, *, built_in: str, download: bool) -> Path | None:
    """The folder of ``hf:FOLDER``, None for the model that is built in.

    Raises:
        ValueError: if the model is neither.
        FileNotFoundError: if there is no such folder.
    """
    if model == built_in:
        return None
    if not model.startswith(PREFIX):
        raise ValueError(f"there is no model {model!r}; there are: {built_in}, hf:FOLDER (a Hugging Face model)")
    return local_folder(model, download=download)


def vocabulary_of(
    tokenizer: Kind | Path | None, texts: Sequence[str], *, kind: Kind, size: int, lower: bool, folder: Path | None
) -> Vocabulary:
    """The tokenizer that is asked for.

    Args:
        tokenizer: ``"words"`` or ``"pieces"``, of the texts; or a file or folder to read it from; None for that of the
            model's folder where it has one, and one of the texts where it has none.
        texts: to train on; training texts alone.
        kind: what to train where nothing is said.
        size: the most entries of one that is trained.
        lower: whether one that is trained takes capitals as small letters.
        folder: of the model, None for one that is built in.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be read, or weights would be given the words of another tokenizer.
    """
    known = folder is not None and has_weights(folder)
    if tokenizer is None and folder is not None and (known or (folder / "tokenizer.json").is_file()):
        return read_vocabulary(folder)
    if isinstance(tokenizer, Path):
        return read_vocabulary(tokenizer)
    if known:
        raise ValueError(
            f"the weights of {folder} belong to their own tokenizer; leave out tokenizer={tokenizer}, or name a file"
        )
    return trained(texts, kind=tokenizer or kind, size=size, lower=lower)


def require_sizes(*, width: int, depth: int, heads: int, dropout: float) -> None:
    """Refuse a transformer that cannot be.

    Raises:
        ValueError: if a size is not positive, the heads do not divide the width, or the dropout is no share.
    """
    if width < 1 or depth < 1 or heads < 1 or width % heads:
        raise ValueError(
            f"width, depth and heads must be positive, and heads divide width; got {width}, {depth} and {heads}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be from 0 to below 1; got {dropout}")
