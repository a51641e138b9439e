"""Decoded data are kept whole, mapped when read, and made anew when their source changes or the file is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from msam.data import cache as module
from msam.data.cache import Cache, Decoded, read, write

IMAGES = torch.arange(60, dtype=torch.uint8).view(5, 3, 2, 2)
DATA = Decoded({"images": IMAGES, "labels": torch.arange(5)}, {"classes": ["a", "ü"]})


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "source.bin"
    file.write_bytes(b"12345")
    return file


class Maker:
    """Counts how often the data are made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Decoded:
        self.times += 1
        return DATA


def cached(source, **settings):
    return Cache("things", source.parent, [source], settings)


def same(found):
    assert found.facts == DATA.facts
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        name: tensor.tolist() for name, tensor in DATA.tensors.items()
    }
    assert [found.tensors[name].dtype for name in ("images", "labels")] == [torch.uint8, torch.int64]


def kept(folder):
    return sorted(folder.rglob("msam-things-*.safetensors"))


def test_data_are_made_once_and_kept_in_one_file_beside_their_source(source):
    make = Maker()
    same(cached(source).get(make))
    same(cached(source).get(make))
    assert make.times == 1
    assert len(kept(source.parent)) == 1
    assert kept(source.parent)[0].parent == source.parent


def test_the_file_is_one_that_others_can_read_too(source):
    import safetensors.torch

    cached(source).get(Maker())
    (file,) = kept(source.parent)
    same(Decoded(safetensors.torch.load_file(file), DATA.facts))
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list what is mapped")
def test_what_is_read_is_mapped_and_not_copied(source):
    found = cached(source).get(Maker())
    (file,) = kept(source.parent)
    place = found.tensors["images"].data_ptr()
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file.name)]
    assert any(int(start, 16) <= place < int(stop, 16) for start, stop in (part.split("-") for part in ranges))


def test_a_source_of_the_same_size_and_time_is_noticed_and_the_old_file_removed(source):
    make = Maker()
    cached(source).get(make)
    (old,) = kept(source.parent)
    before = source.stat()
    source.write_bytes(b"54321")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    cached(source).get(make)
    assert make.times == 2
    (new,) = kept(source.parent)
    assert new != old


def test_other_settings_are_kept_in_a_file_of_their_own(source):
    make = Maker()
    for size in (1, 2, 1, 2):
        cached(source, size=size).get(make)
    assert make.times == 2
    assert len(kept(source.parent)) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_damaged_file_is_made_anew_with_a_warning(source, damage):
    make = Maker()
    cached(source).get(make)
    (file,) = kept(source.parent)
    raw = bytearray(file.read_bytes())
    raw[-50] ^= 1  # a bit of an image
    file.unlink()  # what was mapped stays what it was
    file.write_bytes({"cut": raw[:-7], "changed": raw, "empty": b"", "other": b"other data" * 9}[damage])
    with pytest.warns(UserWarning, match=r"the cache .*msam-things-.* is damaged \(.*\); it is made anew"):
        same(cached(source).get(make))
    assert make.times == 2
    same(cached(source).get(make))
    assert make.times == 2


def test_where_the_folder_cannot_be_written_the_users_cache_folder_serves(source, tmp_path, monkeypatch):
    def refuse(data, file):
        if file.parent == source.parent:
            raise PermissionError(13, "Permission denied", str(file))
        write(data, file)

    monkeypatch.setattr(module, "write", refuse)
    make = Maker()
    same(cached(source).get(make))
    same(cached(source).get(make))
    assert make.times == 1
    assert kept(source.parent) == []
    assert len(kept(tmp_path / "home" / "msam-landscape")) == 1


def test_where_nothing_can_be_written_the_data_are_used_all_the_same(source, monkeypatch):
    def refuse(data, file):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(module, "write", refuse)
    with pytest.warns(UserWarning, match="the decoded data cannot be kept .*No space left on device"):
        same(cached(source).get(Maker()))


def test_an_interrupt_leaves_nothing_half_written(source, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cached(source).get(Maker())
    assert [path.name for path in source.parent.iterdir()] == ["source.bin"]


def test_the_content_is_a_hash_of_tensors_and_facts(tmp_path):
    write(DATA, tmp_path / "a")
    assert read(tmp_path / "a").content == DATA.content
    others = (Decoded({**DATA.tensors, "images": IMAGES + 1}, DATA.facts), Decoded(DATA.tensors, {"classes": ["a"]}))
    assert len({DATA.content, *(other.content for other in others)}) == 3
