from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landscape import files
from landscape.files import atomic_write, is_vacant, remove_partial, require_writable

PARTIAL = ".a.bin.0123abcd.partial"


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


def interrupted_at(step, path):
    """Write, with Ctrl-C before the given bytecode of the writing or of what enters and leaves it; whether it came."""
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_name not in ("atomic_write", "write", "__enter__", "__exit__"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write(path)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the stream that was opened when it came
def test_ctrl_c_at_any_moment_leaves_the_old_or_the_new_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    contents = []
    step = 0
    came = True
    while came:
        step += 1
        path.write_bytes(b"old")
        came = interrupted_at(step, path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"], step
        contents.append(path.read_bytes())
    assert step > 100  # the bytecodes of a write
    first_new = contents.index(b"new")
    assert set(contents[:first_new]) == {b"old"}
    assert set(contents[first_new:]) == {b"new"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the stream that was opened when it came
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_ctrl_c_within_a_call_of_the_system_leaves_the_old_or_the_new_file_and_nothing_else(
    tmp_path, monkeypatch, call
):
    owner = os if call == "fsync" else Path
    original = getattr(owner, call)

    def interrupted(*arguments, **options):
        original(*arguments, **options)
        raise KeyboardInterrupt

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(path)
    assert path.read_bytes() == (b"new" if call == "replace" else b"old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_what_a_killed_process_leaves_has_a_name_that_is_known_and_is_removed(tmp_path):
    code = (
        "import os, sys\nfrom landscape.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as stream:\n    stream.write(b'half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.bin")], cwd=Path(files.__file__).parents[1])
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.match(".a.bin.????????.partial")
    assert is_vacant(tmp_path)
    (tmp_path / ".hidden.partial").write_bytes(b"somebody's own")
    remove_partial(tmp_path, older_than=0)
    assert [entry.name for entry in tmp_path.iterdir()] == [".hidden.partial"]
    assert not is_vacant(tmp_path)


def test_what_may_still_be_written_is_left(tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"half")
    remove_partial(tmp_path)
    assert (tmp_path / PARTIAL).exists()
    os.utime(tmp_path / PARTIAL, (time.time() - 3601,) * 2)
    remove_partial(tmp_path)
    assert not (tmp_path / PARTIAL).exists()
    remove_partial(tmp_path / "none")


def test_a_file_of_the_future_is_removed_where_nobody_else_writes(tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"half")
    os.utime(tmp_path / PARTIAL, (time.time() + 1000,) * 2)
    remove_partial(tmp_path, older_than=0)
    assert list(tmp_path.iterdir()) == []


def test_a_place_is_vacant_when_nothing_is_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert is_vacant(tmp_path / "none")
    assert is_vacant(tmp_path / "empty")
    assert not any(is_vacant(tmp_path / name) for name in ("link", "file", "."))


def test_a_folder_or_a_device_in_the_place_of_a_file_is_refused_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "device")
    for name, words in (("folder", "Is a directory"), ("device", "not a file")):
        for refuse in (write, require_writable):
            with pytest.raises(OSError, match=f"{words}.*{name}"):
                refuse(tmp_path / name)
    assert (tmp_path / "device").is_fifo()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["device", "folder"]


def test_a_folder_that_cannot_be_written_to_is_refused_before(tmp_path, monkeypatch):
    require_writable(tmp_path / "b" / "c" / "a.bin")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"Not a directory.*a\.bin"):
        require_writable(tmp_path / "file" / "a.bin")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(OSError, match=r"Permission denied.*a\.bin"):
        require_writable(tmp_path / "b" / "a.bin")


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / ("n" * 250)  # short enough itself
    with pytest.raises(OSError, match="n" * 250) as caught:
        write(path)
    assert caught.value.filename == str(path)
