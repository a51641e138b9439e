"""Words as numbers: a tokenizer that is trained on the spot, or one from a file, and texts as padded tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from msam.extras import extra

Kind = Literal["words", "pieces"]
SPECIAL = ("<pad>", "<unk>", "<cls>", "<sep>")
_BYTES = 256
_PADDING = ("<pad>", "[PAD]", "<|endoftext|>", "</s>")  # what models without a padding token pad with is masked
_OLDER = ("vocab.txt", "vocab.json", "*.model")  # without any of them the library makes an empty tokenizer
_CHUNK = 4096  # texts at a time: what the library says of each takes a hundred times the tokens

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer: texts to numbers of words.

    Attributes:
        inner: that of the library ``tokenizers``.
        pad: the number that stands for padding.
        about: what it is, in words.
        end: the number of what ends every text; None where that is not known.
    """

    inner: Any
    pad: int
    about: str
    end: int | None = None

    @property
    def size(self) -> int:
        """One more than the largest number."""
        return int(max(self.inner.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def hash(self) -> str:
        """A hash of the words and their numbers; the same whatever else a version of the library writes of them."""
        words = sorted(self.inner.get_vocab(with_added_tokens=True).items())
        return hashlib.blake2b(json.dumps(words).encode(), digest_size=4).hexdigest()

    def numbers(self, text: str) -> Tensor:
        """The tokens of a text, ``(tokens,)``, without any that would mark its beginning or end."""
        return torch.tensor(self.inner.encode(text, add_special_tokens=False).ids, dtype=torch.long)


@dataclass(frozen=True)
class Encoded:
    """Texts as tensors, padded to the longest of them.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and, for pairs, ``token_type_ids``, each ``(n, longest)``.
        cut: how many were cut.
    """

    inputs: dict[str, Tensor]
    cut: int


def trained(texts: Sequence[str], *, kind: Kind, size: int, lower: bool) -> Vocabulary:
    """A tokenizer made of some texts alone; the same texts in the same order make the same one, on every machine.

    ``words`` are split at spaces and punctuation; those that are not among the most frequent are one unknown word.
    ``pieces`` are byte pairs (Sennrich 2016, arXiv 1508.07909), so that no text is unknown. The library's WordPiece is
    not offered: it numbers its pieces in another order in every process.

    Args:
        texts: to count in.
        kind: ``"words"`` or ``"pieces"``.
        size: the most entries, the four special ones included.
        lower: whether capitals are taken as small letters.

    Raises:
        ValueError: if the size leaves no room, or the library is not installed.
    """
    least = len(SPECIAL) + (_BYTES if kind == "pieces" else 1)
    if size < least:
        raise ValueError(f"vocabulary must be at least {least} for {kind}; got {size}")
    with extra("hf", "tokens"):
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    shared: dict[str, Any] = {"vocab_size": size, "special_tokens": list(SPECIAL), "show_progress": False}
    if kind == "words":
        inner: Any = Tokenizer(models.WordLevel(unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordLevelTrainer(**shared)
    else:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=lower), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), **shared)
    if lower:
        inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.train_from_iterator(texts, trainer, length=len(texts))
    _, _, cls, sep = SPECIAL
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, inner.token_to_id(token)) for token in (cls, sep)],
    )
    made = Vocabulary(inner, inner.token_to_id(SPECIAL[0]), "")
    about = f"a vocabulary of {made.size} {kind} of the training texts ({made.hash})"
    return Vocabulary(inner, made.pad, about, inner.token_to_id(sep))


def read_vocabulary(path: str | Path) -> Vocabulary:
    """A tokenizer from a ``tokenizer.json``, or from the folder of a Hugging Face model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or has nothing to pad with.
    """
    path = Path(path)
    folder, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
    if not file.is_file() and not (path.is_dir() and any(next(path.glob(name), None) for name in _OLDER)):
        raise FileNotFoundError(
            f"there is no tokenizer at {path}; name a tokenizer.json or a folder with one, or make one of the training "
            "texts with tokenizer=words or tokenizer=pieces"
        )
    with extra("hf", "tokens"):
        from tokenizers import Tokenizer
    try:
        inner = Tokenizer.from_str(file.read_text(encoding="utf-8")) if file.is_file() else _converted(folder)
    except Exception as error:  # the library raises nothing more special
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not a tokenizer that can be read ({reason}); save it again") from None
    wanted = (inner.padding or {}).get("pad_id")
    inner.no_padding()
    inner.no_truncation()
    names = [*_named_padding(folder), *_PADDING]
    found = [inner.token_to_id(name) for name in names] if wanted is None else [wanted]
    known = [number for number in found if number is not None]
    if not known:
        raise ValueError(
            f"{file} has no token to pad with; name one as pad_token in {folder / 'tokenizer_config.json'}"
        )
    made = Vocabulary(inner, known[0], "")
    return Vocabulary(inner, known[0], f"the tokenizer of {path} ({made.hash})")


def encoded(
    vocabulary: Vocabulary,
    texts: Sequence[Text],
    *,
    what: str = "texts",
    cut_to: int | None = None,
    limit: int | None = None,
) -> Encoded:
    """Texts, or pairs of them, as padded tensors.

    Args:
        vocabulary: the tokenizer.
        texts: sentences, or pairs.
        what: they are called, in an error.
        cut_to: longer ones are cut to so many tokens, of a pair the longer part first.
        limit: the most tokens that the model takes.

    Raises:
        ValueError: if some are longer than the limit and are not to be cut, or have no tokens at all.
    """
    ids, kinds = _encoded(vocabulary, texts)
    lengths = np.array([len(row) for row in ids])
    most = min(value for value in (cut_to, limit, int(lengths.max())) if value is not None)
    long = np.flatnonzero(lengths > most)
    if len(long) and cut_to != most:
        raise ValueError(
            f"{len(long)} of {len(texts)} {what} have more tokens than the model takes ({limit}), up to "
            f"{lengths.max()}; cut them with max_length={limit}, or leave them out"
        )
    if not lengths.all():
        raise ValueError(f"{int((lengths == 0).sum())} of {len(texts)} {what} have no tokens; leave out what is empty")
    if len(long):
        vocabulary.inner.enable_truncation(most)
        try:
            short, short_kinds = _encoded(vocabulary, [texts[int(number)] for number in long])
        finally:
            vocabulary.inner.no_truncation()
        for number, row, kind in zip(long, short, short_kinds, strict=True):
            ids[number], kinds[number] = row, kind
    mask = np.arange(most) < np.minimum(lengths, most)[:, None]
    inputs = {
        "input_ids": _padded(ids, mask, vocabulary.pad),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
    if not isinstance(texts[0], str):
        inputs["token_type_ids"] = _padded(kinds, mask, 0)
    return Encoded(inputs, len(long))


def _encoded(vocabulary: Vocabulary, texts: Sequence[Text]) -> tuple[list[Any], list[Any]]:
    """The numbers of the tokens of each text, and to which of a pair they belong."""
    ids, kinds = [], []
    for start in range(0, len(texts), _CHUNK):
        for encoding in vocabulary.inner.encode_batch_fast(list(texts[start : start + _CHUNK])):
            ids.append(np.array(encoding.ids, dtype=np.int32))
            kinds.append(np.array(encoding.type_ids, dtype=np.int8))
    return ids, kinds


def _padded(rows: list[Any], mask: Any, value: int) -> Tensor:
    table = np.full(mask.shape, value, dtype=np.int64)
    table[mask] = np.concatenate(rows)
    return torch.from_numpy(table)


def _named_padding(folder: Path) -> Iterator[str]:
    """What a model's folder calls its padding, or else its end of text."""
    try:
        written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for key in ("pad_token", "eos_token"):
        token = written.get(key) if isinstance(written, dict) else None
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            yield name


def _converted(folder: Path) -> Any:
    """The tokenizer of a folder with files of an older kind."""
    with extra("hf", "tokenizers of an older kind"):
        import transformers
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
