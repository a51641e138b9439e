"""Rows of parquet files are read by the names of their columns, and a damaged file says so."""

from __future__ import annotations

import sys

import pyarrow
import pyarrow.parquet
import pytest

from msam.data.parquet import Table


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "numbers.parquet"
    rows = 600  # more than are in memory at a time
    pyarrow.parquet.write_table(
        pyarrow.table({"label": list(range(rows)), "text": [f"row {i} " * 20 for i in range(rows)]}), path
    )
    return path


def test_all_rows_are_read_in_order_from_the_first_name_that_is_there(file):
    table = Table(file, ("sentence", "text"), ("label", "text"))
    assert table.names == ["text", "label"]
    assert len(table) == 600
    assert list(table.rows()) == [(f"row {i} " * 20, i) for i in range(600)]


def test_a_column_that_is_missing_is_named_with_those_that_are_there(file):
    with pytest.raises(
        ValueError, match=r"numbers.parquet has no column 'img' or 'image'; its columns are: label, text"
    ):
        Table(file, ("img", "image"))


def test_a_truncated_file_and_one_that_is_none_say_so(file):
    raw = file.read_bytes()
    for wrong in (raw[:-10], raw[:100], b"", b"no parquet at all"):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"numbers.parquet is not a whole parquet file \(.*\); copy or download"):
            Table(file, ("label",))


def test_a_file_that_is_damaged_in_the_middle_says_so(file):
    raw = bytearray(file.read_bytes())
    raw[20:-1500] = bytes(len(raw[20:-1500]))  # all but what says where columns are
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"numbers.parquet is not a whole parquet file"):
        list(Table(file, ("text",)).rows())


def test_a_text_that_is_damaged_within_says_so(tmp_path):
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["a text that is whole"]}),
        tmp_path / "a.parquet",
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(raw.replace(b"whole", b"wh\xf6le"))
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole parquet file \('utf-8' codec can't decode"):
        list(Table(tmp_path / "a.parquet", ("text",)).rows())


def test_without_pyarrow_the_command_that_installs_it_is_said(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"parquet files need pyarrow; .*pip install 'msam-landscape\[data\]'"):
        Table(file, ("label",))
