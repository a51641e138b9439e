"""Tokenizers: trained the same way every time on what they are given alone, read from files, and texts as tensors."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch

from msam.data.tokens import Kind, encoded, read_vocabulary, trained

pytest.importorskip("tokenizers", reason="the extra hf is not installed")

TEXTS = ["a film of love", "a film of hate and love", "love, and nothing else"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_training_makes_the_same_vocabulary_of_the_same_texts(kind):
    # Maps of the library are in another order each time: its WordPiece differs between any two trainings on these.
    words = [f"{chr(97 + n % 26)}{chr(97 + n % 7)}{chr(97 + n % 11)}" for n in range(300)]
    texts = [" ".join(words[start : start + 9]) for start in range(0, 300, 3)]
    made = [trained(texts, kind=kind, size=400, lower=True) for _ in range(4)]
    assert len({vocabulary.hash for vocabulary in made}) == 1
    assert len({vocabulary.inner.to_str() for vocabulary in made}) == 1
    assert made[0].size > 280


def test_words_are_numbered_by_how_often_they_occur_and_the_others_are_one():
    vocabulary = trained(TEXTS, kind="words", size=8, lower=True)
    assert vocabulary.size == 8
    # love 3; a, and, film, of 2 each, in the order of the alphabet: there is room for four of these five
    assert vocabulary.numbers("love a and film of").tolist() == [4, 5, 6, 7, 1]
    assert vocabulary.numbers("LOVE").tolist() == [4]
    assert trained(TEXTS, kind="words", size=8, lower=False).numbers("LOVE").tolist() == [1]


def test_pieces_say_every_text_whatever_is_in_it():
    vocabulary = trained(TEXTS, kind="pieces", size=270, lower=False)
    text = "Love,\n\tnaïve ☃ 漢"
    assert vocabulary.inner.decode(vocabulary.numbers(text).tolist()) == text
    assert vocabulary.size == 270
    assert len(vocabulary.numbers(" love and")) < len(" love and")


def test_other_texts_have_another_hash():
    hashes = {trained(texts, kind="words", size=9, lower=True).hash for texts in (TEXTS, TEXTS[:2])}
    assert len(hashes) == 2


def test_texts_are_padded_to_the_longest_with_a_mask_and_marks_at_both_ends():
    vocabulary = trained(TEXTS, kind="words", size=30, lower=True)
    made = encoded(vocabulary, TEXTS)
    assert made.cut == 0
    assert made.inputs.keys() == {"input_ids", "attention_mask"}
    ids, mask = made.inputs["input_ids"], made.inputs["attention_mask"]
    assert mask.sum(1).tolist() == [6, 8, 7]
    assert ids.shape == mask.shape == (3, 8)
    assert ids.dtype == mask.dtype == torch.long
    for row, text in enumerate(TEXTS):
        words = ids[row][mask[row] == 1]
        assert words.tolist() == [2, *vocabulary.numbers(text).tolist(), 3]
        assert (ids[row][mask[row] == 0] == vocabulary.pad).all()


def test_pairs_have_types():
    vocabulary = trained(TEXTS, kind="words", size=30, lower=True)
    made = encoded(vocabulary, [("a film", "love"), ("a", "a film of love")])
    assert made.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert made.inputs["attention_mask"].sum(1).tolist() == [6, 8]


def test_long_texts_are_cut_only_when_told_and_counted():
    vocabulary = trained(TEXTS, kind="words", size=30, lower=True)
    made = encoded(vocabulary, TEXTS, cut_to=6)
    assert made.cut == 2
    assert made.inputs["input_ids"].shape == (3, 6)
    assert made.inputs["input_ids"][1].tolist() == [2, *vocabulary.numbers("a film of hate").tolist(), 3]
    assert encoded(vocabulary, TEXTS, limit=8).cut == 0  # and the tokenizer cuts no longer
    with pytest.raises(
        ValueError,
        match=r"1 of 3 training texts have more tokens than the model takes \(7\), up to 8; cut them with max_length=7",
    ):
        encoded(vocabulary, TEXTS, what="training texts", limit=7)


def test_of_a_pair_the_longer_part_is_cut_first():
    vocabulary = trained(TEXTS, kind="words", size=30, lower=True)
    made = encoded(vocabulary, [("a film of love and hate", "love")], cut_to=6)
    assert made.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("kind", "size", "sentence"),
    [("words", 4, "at least 5 for words; got 4"), ("pieces", 259, "at least 260 for pieces")],
)
def test_a_vocabulary_without_room_is_refused(kind, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        trained(TEXTS, kind=kind, size=size, lower=True)


def test_a_file_gives_the_numbers_of_the_tokenizer_that_was_saved_whatever_its_own_lengths(tmp_path):
    vocabulary = trained(TEXTS, kind="words", size=30, lower=True)
    expected = encoded(vocabulary, TEXTS).inputs["input_ids"]
    vocabulary.inner.enable_truncation(5)
    vocabulary.inner.enable_padding(length=20, pad_id=0)
    vocabulary.inner.save(str(tmp_path / "tokenizer.json"))
    vocabulary.inner.no_truncation()
    vocabulary.inner.no_padding()
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        read = read_vocabulary(path)
        assert read.hash == vocabulary.hash
        assert torch.equal(encoded(read, TEXTS).inputs["input_ids"], expected)


def test_padding_is_what_the_folder_says(tmp_path):
    trained(TEXTS, kind="words", size=30, lower=True).inner.save(str(tmp_path / "tokenizer.json"))
    assert read_vocabulary(tmp_path).pad == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "love"}}))
    assert read_vocabulary(tmp_path).pad == 4
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": None, "eos_token": "<sep>"}))
    assert read_vocabulary(tmp_path).pad == 3


def test_what_is_no_tokenizer_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer at .*none.json; name a tokenizer.json"):
        read_vocabulary(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"or make one of the training texts with tokenizer=words"):
        read_vocabulary(tmp_path)  # a folder without any: the library would make an empty one of it
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer that can be read \(.*\); save it again"):
        read_vocabulary(file)
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(file))
    with pytest.raises(ValueError, match=r"has no token to pad with; name one as pad_token in .*tokenizer_config.json"):
        read_vocabulary(file)
