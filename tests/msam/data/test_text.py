"""Texts are read as they are, or refused with the place where they are wrong."""

from __future__ import annotations

import pytest
import torch
from texts import write_table

from msam.data.text import files_of, labelled, plain_text

ROWS = {"sentence": ["one", "two", "three"], "label": [0, 1, 1], "idx": [0, 1, 2]}


def test_files_are_read_one_after_another(tmp_path):
    paths = [write_table(tmp_path / f"train-{number}.parquet", ROWS) for number in range(2)]
    assert files_of(tmp_path, ["none*", "train-*.parquet", "*"], what="data", columns=[]) == paths
    found = labelled(paths, ["sentence"], classes=2)
    assert found.texts == ["one", "two", "three"] * 2
    assert torch.equal(found.labels, torch.tensor([0, 1, 1] * 2))
    some = found.taken(torch.tensor([5, 0]))
    assert (some.texts, some.labels.tolist()) == (["three", "one"], [1, 0])


def test_pairs_and_values(tmp_path):
    path = write_table(tmp_path / "a.parquet", {"b": ["x"], "a": ["y"], "label": [2.5]})
    found = labelled([path], ["a", "b"], classes=None)
    assert found.texts == [("y", "x")]
    assert found.labels.tolist() == [2.5]
    assert found.labels.dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"label": [0, 2, 1]}, r"the label in row 2 of .* is 2; it must be a class from 0 to 1"),
        ({"label": [0, 1, -1]}, r"row 3 of .* is -1 \(the labels of GLUE's test data are hidden\)"),
        ({"label": [0, 1, None]}, "row 3 of .* is None"),
        ({"label": [0.0, 1.0, 0.5]}, "row 1 of .* is 0.0"),
        ({"sentence": ["one", None, "three"]}, "row 2 of the column 'sentence' in .* is no text: None"),
        ({"sentence": [1, 2, 3]}, "row 1 of the column 'sentence' in .* is no text: 1"),
        ({"sentence": [], "label": [], "idx": []}, "there are no rows in .*a.parquet"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, rows, sentence):
    path = write_table(tmp_path / "a.parquet", ROWS | rows)
    with pytest.raises(ValueError, match=sentence):
        labelled([path], ["sentence"], classes=2)


def test_a_missing_column_and_a_damaged_file_are_named(tmp_path):
    path = write_table(tmp_path / "a.parquet", ROWS)
    with pytest.raises(ValueError, match=r"a.parquet has no column 'premise'; .*: sentence, label, idx"):
        labelled([path], ["premise"], classes=2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a.parquet is not a whole parquet file \(.*\)"):
        labelled([path], ["sentence"], classes=2)


def test_where_no_files_are_the_sentence_says_what_to_put_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no train data: .* has none of them; put train\*.parquet or a"
    ):
        files_of(tmp_path, ["train*.parquet", "a"], what="train data", columns=["sentence", "label"])
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; .* with the columns sentence, label"):
        files_of(tmp_path / "nowhere", ["train*.parquet"], what="train data", columns=["sentence", "label"])


def test_plain_text_is_a_file_or_those_of_a_folder_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a.txt").write_text("först", encoding="utf-8")
    (tmp_path / "c.md").write_text("no text")
    assert plain_text(tmp_path) == "först\nsecond"
    assert plain_text(tmp_path / "c.md") == "no text"


def test_what_is_no_plain_text_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no text at .*; name a text file, or a folder with .txt files"
    ):
        plain_text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no text at .*none"):
        plain_text(tmp_path / "none")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt is no text in UTF-8 \(byte 3\); convert it"):
        plain_text(tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"there is no text in .*; it is empty"):
        plain_text(tmp_path)
