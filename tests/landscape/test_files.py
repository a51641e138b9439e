from __future__ import annotations

import errno
import os

import pytest

from landscape.files import atomic_write


def test_the_contents_appear_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as stream:
        stream.write(b"whole")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_missing_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "b" / "c" / "a.bin") as stream:
        stream.write(b"x")
    assert (tmp_path / "b" / "c" / "a.bin").read_bytes() == b"x"


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"a longer text that stood there before")
    with atomic_write(str(path)) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_error_or_an_interrupt_the_old_file_stands_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_write(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def write(path):
    with atomic_write(path) as stream:
        stream.write(b"new")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_on_a_full_disk_the_old_file_stands_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else ("pathlib.Path.replace", full)))
    with pytest.raises(OSError, match="No space left on device"):
        write(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_the_file_is_readable_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.bin")
        assert os.umask(0o027) == 0o027  # asked for, and left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file" / "a.bin")
