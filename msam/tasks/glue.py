"""The tasks of GLUE (Wang et al. 2018, arXiv 1804.07461): sentences and pairs to classify, from parquet files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.batches import Batch
from landscape.forward import supervised
from msam.data import Examples, at_random, with_label_noise
from msam.data.places import present
from msam.data.splits import require_seed, training_and_validation
from msam.data.text import Labelled, files_of, labelled
from msam.data.tokens import Encoded, Kind as Trained, encoded
from msam.models.huggingface import from_folder
from msam.models.text import TextClassifier
from msam.tasks.task import Task
from msam.tasks.wording import folder_of_model, require_sizes, vocabulary_of


@dataclass(frozen=True)
class Kind:
    """One of the tasks.

    Attributes:
        about: what is told from what.
        columns: of the texts, one or two.
        classes: number of classes; None for a regression.
        tested_on: how the files of the test data begin.
    """

    about: str
    columns: tuple[str, ...]
    classes: int | None = 2
    tested_on: str = "validation"


GLUE = {
    "sst2": Kind("sentences of film reviews, negative or positive", ("sentence",)),
    "cola": Kind("sentences, acceptable or not", ("sentence",)),
    "mrpc": Kind("pairs of sentences, paraphrases or not", ("sentence1", "sentence2")),
    "qqp": Kind("pairs of questions, duplicates or not", ("question1", "question2")),
    "qnli": Kind("a question and a sentence that answers it or not", ("question", "sentence")),
    "rte": Kind("pairs of sentences, the second following from the first or not", ("sentence1", "sentence2")),
    "wnli": Kind("pairs of sentences, a pronoun replaced rightly or not", ("sentence1", "sentence2")),
    "mnli": Kind(
        "a premise and a hypothesis: entailment, neutral or contradiction",
        ("premise", "hypothesis"),
        3,
        "validation_matched",
    ),
    "stsb": Kind("pairs of sentences and their similarity, 0 to 5, a regression", ("sentence1", "sentence2"), None),
}
BUILT_IN = "transformer"


def value(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """The reading of a regression: the one output of each example, ``(N,)``, and its target."""
    outputs, targets = supervised(model, batch)
    return outputs.squeeze(1), targets


def glue(name: str) -> Callable[..., Task]:
    """The function that builds one of the tasks, with its settings as arguments.

    Args:
        name: one of ``GLUE``.
    """
    kind = GLUE[name]

    def build(
        *,
        data: Path,
        model: str = BUILT_IN,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        tokenizer: Trained | Path | None = None,
        vocabulary: int = 8000,
        max_length: int | None = None,
        train_examples: int | None = None,
        validation_examples: int = 0,
        label_noise: float = 0.0,
        data_seed: int = 0,
        download: bool = False,
    ) -> Task:
        require_sizes(width=width, depth=depth, heads=heads, dropout=dropout)
        require_seed(data_seed)
        if max_length is not None and max_length < 8:
            raise ValueError(f"max_length must be at least 8 tokens; got {max_length}")
        if not 0 <= label_noise <= 1 or (kind.classes is None and label_noise):
            raise ValueError(f"label_noise must be between 0 and 1, and 0 for a regression; got {label_noise}")
        folder = folder_of_model(model, built_in=BUILT_IN, download=download)
        files = {split: _files(present(data), name, split) for split in ("train", kind.tested_on)}
        train, test = (labelled(paths, kind.columns, classes=kind.classes) for paths in files.values())
        validation, train = _parts(train, validation_examples, train_examples, kind=kind, seed=data_seed)
        words = vocabulary_of(tokenizer, _singly(train), kind="words", size=vocabulary, lower=True, folder=folder)
        ready = None
        if folder is not None:
            outputs = kind.classes or 1
            ready = from_folder(
                folder, kind="sequence", outputs=outputs, words=words.size, pad=words.pad, end=words.end
            )
        limit = None if ready is None else ready.limit
        if limit is not None and max_length is not None and max_length > limit:
            raise ValueError(
                f"max_length {max_length} is more than the {limit} tokens that {model} takes; choose at most these"
            )
        parts = {
            split: encoded(words, part.texts, what=f"{split} texts", cut_to=max_length, limit=limit)
            for split, part in (("training", train), ("validation", validation), ("test", test))
            if part is not None
        }
        places = max_length or max(part.inputs["input_ids"].shape[1] for part in parts.values())
        kinds = 2 if len(kind.columns) == 2 else 0

        def transformer() -> nn.Module:
            return TextClassifier(
                vocabulary=words.size,
                places=places,
                outputs=kind.classes or 1,
                width=width,
                depth=depth,
                heads=heads,
                dropout=dropout,
                kinds=kinds,
            )

        if ready is not None and getattr(ready.config, "type_vocab_size", 0) < 2:
            for part in parts.values():
                part.inputs.pop("token_type_ids", None)
        shown = Examples(parts["training"].inputs, train.labels)
        if kind.classes is not None:
            shown = with_label_noise(shown, label_noise, classes=kind.classes, seed=data_seed)
        held = None if validation is None else Examples(parts["validation"].inputs, validation.labels)
        about = _about(name, shown, held, test, label_noise=label_noise, cut_to=max_length, parts=parts)
        return Task(
            f"glue:{name}",
            transformer if ready is None else ready,
            functional.mse_loss if kind.classes is None else functional.cross_entropy,
            shown,
            Examples(parts["test"].inputs, test.labels),
            "; ".join([about, words.about, *([] if ready is None else [ready.about])]),
            forward=value if kind.classes is None else supervised,
            validation=held,
            vocabulary=words.hash,
        )

    build.__doc__ = f"""GLUE {name}: {kind.about}; from --data FOLDER, with msam-landscape[data,hf].

    Args:
        data: folder with train*.parquet and {kind.tested_on}*.parquet, or {name}-train*.parquet and so on, or one
            named {name} with them: columns {", ".join(kind.columns)} and label.
        model: "{BUILT_IN}", a small one that is built in, or hf:FOLDER, a Hugging Face sequence classifier: with the
            weights in the folder, or untrained where there is a config.json alone.
        width: of the transformer's vectors.
        depth: its blocks.
        heads: of its attention; they divide the width.
        dropout: share that it drops in training, from 0 to below 1.
        tokenizer: "words" or "pieces", trained on the training texts, or a file or folder to read it from; that of
            the model's folder, or words, when left out.
        vocabulary: the most entries of a tokenizer that is trained.
        max_length: longer texts are cut to so many tokens; none are when left out.
        train_examples: size of the stratified training subset; all when left out.
        validation_examples: so many training examples are set apart, always the same.
        label_noise: fraction of the training labels drawn at random, 0 to 1.
        data_seed: of the subset and of the noise.
        download: whether a model that is no folder here may be downloaded.
    """
    build.__name__ = build.__qualname__ = f"glue:{name}"
    return build


def _files(folder: Path, name: str, split: str) -> list[Path]:
    patterns = [f"{name}-{split}*.parquet", f"{name}/{split}*.parquet", f"{split}*.parquet"]
    if split == "validation_matched":
        patterns += [f"{name}-validation.parquet", "validation.parquet"]
    return files_of(folder, patterns, what=f"{split} data of glue:{name}", columns=[*GLUE[name].columns, "label"])


def _parts(
    data: Labelled, apart: int, number: int | None, *, kind: Kind, seed: int
) -> tuple[Labelled | None, Labelled]:
    """What is set apart for validation, and the training subset."""
    if kind.classes is not None:
        counts = data.labels.bincount(minlength=kind.classes)
        if counts.min() < 2:
            raise ValueError(
                f"only {int(counts.min())} of {len(data.texts)} training texts have the label {int(counts.argmin())}; "
                "each class needs two"
            )
        rows, held = training_and_validation(data.labels, train_examples=number, validation_examples=apart, seed=seed)
        return data.taken(held) if apart else None, data.taken(rows)
    left = Examples(torch.arange(len(data.texts)), data.labels)
    validation = None
    if apart:
        others, left = _drawn(left, apart, name="validation_examples", seed=0)
        validation = data.taken(others.inputs)
    if number is not None and number != len(left):
        left, _ = _drawn(left, number, name="train_examples", seed=seed)
    return validation, data.taken(left.inputs)


def _drawn(rows: Examples, number: int, *, name: str, seed: int) -> tuple[Examples, Examples]:
    if not 1 <= number <= len(rows) - 1:
        also = f", or {len(rows)}" if name == "train_examples" else ""
        raise ValueError(f"{name} must be between 1 and {len(rows) - 1}{also}; got {number}")
    return at_random(rows, number, seed=seed)


def _singly(data: Labelled) -> list[str]:
    return [part for text in data.texts for part in ([text] if isinstance(text, str) else text)]


def _about(
    name: str,
    train: Examples,
    validation: Examples | None,
    test: Labelled,
    *,
    label_noise: float,
    cut_to: int | None,
    parts: dict[str, Encoded],
) -> str:
    held = "" if validation is None else f", {len(validation)} others of its training data to choose settings by"
    noise = f", {label_noise:.0%} of the training labels drawn at random" if label_noise else ""
    cuts = {split: part.cut for split, part in parts.items() if part.cut}
    cut = "".join(f", {number} {split} texts cut to {cut_to} tokens" for split, number in cuts.items())
    return (
        f"GLUE {name}: {len(train)} training texts{held}, and {len(test.texts)} test texts, which are GLUE's "
        f"validation data, since the labels of its test data are hidden{noise}{cut}"
    )
