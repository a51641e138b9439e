"""Checkpoints of other programs are read whole, in one file or in shards, or refused by name; nothing in them runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from msam.foreign import digest, read_foreign, split_key


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def sharded(folder, state, *, kind="safetensors", **metadata):
    """Two shards and their index, as Hugging Face writes them."""
    folder.mkdir()
    names = sorted(state)
    base = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    parts = {f"{base}-0000{i + 1}-of-00002.{kind}": names[i::2] for i in range(2)}
    for file, own in parts.items():
        if kind == "bin":
            torch.save({name: state[name] for name in own}, folder / file)
        else:
            safetensors.torch.save_file({name: state[name] for name in own}, folder / file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {
        "metadata": {"total_size": size} | metadata,
        "weight_map": {name: file for file, own in parts.items() for name in own},
    }
    (folder / f"{base}.{kind}.index.json").write_text(json.dumps(index))
    return folder, index, [folder / file for file in parts]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards_are_read_together(kind, named, model, tmp_path):
    folder, _, _ = sharded(tmp_path / "a", model.state_dict(), kind=kind)
    path = folder if named == "folder" else next(folder.glob("*.index.json"))
    assert same(read_foreign(path), model.state_dict())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file_is_read(name, model, tmp_path):
    save = torch.save if name.endswith("bin") else safetensors.torch.save_file
    save(dict(model.state_dict()), tmp_path / name)
    assert same(read_foreign(tmp_path), model.state_dict())


def test_of_several_checkpoints_in_a_folder_the_one_is_read_that_transformers_reads(model, tmp_path):
    folder, _, _ = sharded(tmp_path / "a", {"bin": torch.ones(1)} | model.state_dict(), kind="bin")
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    assert same(read_foreign(folder), model.state_dict())
    shards = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    for file in sharded(tmp_path / "b", shards)[0].iterdir():
        file.rename(folder / file.name)
    assert same(read_foreign(folder), shards)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    assert same(read_foreign(folder), model.state_dict())


def test_every_missing_shard_is_named(model, tmp_path):
    folder, _, files = sharded(tmp_path / "a", model.state_dict())
    for file in files:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"2 are missing: {files[0].name}, {files[1].name}; put all of them"):
        read_foreign(folder)


def test_a_shard_that_was_cut_off_is_refused(model, tmp_path):
    folder, _, files = sharded(tmp_path / "a", model.state_dict())
    files[1].write_bytes(files[1].read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"{files[1].name} is not a whole safetensors file"):
        read_foreign(folder)


def test_a_shard_of_another_checkpoint_is_refused(model, tmp_path):
    folder, _, files = sharded(tmp_path / "a", model.state_dict())
    state = safetensors.torch.load_file(files[0])
    safetensors.torch.save_file(state | {"extra": torch.ones(2)}, files[0])
    with pytest.raises(ValueError, match=rf"{files[0].name} and model\.safetensors\.index\.json differ in extra; they"):
        read_foreign(folder)


def test_the_bytes_of_all_shards_are_counted(model, tmp_path):
    there = 4 * (4 * 3 + 3 + 3 * 2 + 2)
    folder, _, _ = sharded(tmp_path / "a", model.state_dict(), total_size=there + 4)
    with pytest.raises(ValueError, match=f"hold {there} bytes of tensors, and it says {there + 4}; they are not of"):
        read_foreign(folder)


def test_tensors_with_two_names_count_once(tmp_path):
    weight = torch.ones(3, 2)
    folder, index, files = sharded(tmp_path / "a", {"a": weight, "b": torch.ones(1)}, kind="bin")
    torch.save({"a": weight, "tied": weight}, files[0])
    index["weight_map"]["tied"] = files[0].name
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert read_foreign(folder).keys() == {"a", "b", "tied"}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{", "is not the index of a sharded checkpoint"),
        ("[]", "is not the index of a sharded checkpoint"),
        ("{}", "is not the index of a sharded checkpoint"),
        ('{"weight_map": {}}', "does not name files beside it"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "does not name files beside it"),
        ('{"weight_map": {"a": "/a.safetensors"}}', "does not name files beside it"),
        ('{"weight_map": {"a": 3}}', "does not name files beside it"),
        ('{"weight_map": {"a": "b"}, "metadata": {"total_size": "many"}}', r"is not the index .*many'\"?\)\); copy it"),
        (
            '{"weight_map": {"a": "b"}, "metadata": {"total_size": Infinity}}',
            "is not the index of a sharded checkpoint",
        ),
        ('{"weight_map": {"a": "b"}, "metadata": {"total_size": NaN}}', "is not the index of a sharded checkpoint"),
    ],
)
def test_a_damaged_index_is_refused(written, words, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(written)
    with pytest.raises(ValueError, match=words):
        read_foreign(tmp_path)


def test_settings_and_scores_beside_the_weights_are_read(model, tmp_path):
    """As many training scripts save them; numbers of numpy and a Namespace run nothing."""
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.75), "epoch": np.int64(3)}
    torch.save(beside | {"model": model.state_dict()}, tmp_path / "a.pt")
    found = read_foreign(tmp_path / "a.pt")
    assert (found["args"].lr, found["best"], found["epoch"]) == (0.1, 0.75, 3)
    assert same(found["model"], model.state_dict())


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_and_does_not_run(save, model, tmp_path):
    save({"model": dict(model.state_dict()), "hook": Touches(tmp_path / "marker")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"is refused: it is a pickle .* convert it there to safetensors"):
        read_foreign(tmp_path / "a.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a"])
def test_an_empty_file_is_called_empty(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} is empty"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_called_not_whole(name, share, model, tmp_path):
    save = torch.save if name.endswith("pt") else safetensors.torch.save_file
    save(dict(model.state_dict()), tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"is not a whole (safetensors|torch) file"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("name", ["weights", "weights.pt", "weights.ckpt"])
def test_safetensors_are_known_by_how_they_begin(name, model, tmp_path):
    safetensors.torch.save_file(model.state_dict(), tmp_path / name)
    assert same(read_foreign(tmp_path / name), model.state_dict())
    (tmp_path / name).write_bytes(b"\xff" * 8 + b"{" + b"0" * 30)  # of a length that it cannot have
    with pytest.raises(ValueError, match="is not a whole torch file"):
        read_foreign(tmp_path / name)


def test_what_is_no_mapping_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds a list, not names of tensors; save model\.state_dict\(\)"):
        read_foreign(tmp_path / "a.pt")


def test_what_is_not_there_and_folders_without_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at .*none"):
        read_foreign(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"is a folder without a checkpoint in it; .* has model.safetensors or"):
        read_foreign(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="is a run; name it as RUN"):
        read_foreign(tmp_path)


def test_the_digest_is_that_of_the_bytes_and_of_every_shard(model, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"some bytes")
    assert digest(tmp_path / "a.pt") == hashlib.sha256(b"some bytes").hexdigest()
    folder, _, files = sharded(tmp_path / "a", model.state_dict())
    parts = [
        hashlib.sha256(part.read_bytes()).hexdigest() for part in (folder / "model.safetensors.index.json", *files)
    ]
    found = [digest(folder)]
    assert found == [hashlib.sha256("".join(parts).encode()).hexdigest()]  # by which it is known on disk
    for file in (*files, folder / "model.safetensors.index.json"):
        file.write_bytes(file.read_bytes() + b" ")
        found.append(digest(folder))
    assert len(set(found)) == 4


def test_an_entry_is_named_after_a_colon_unless_the_file_has_one(tmp_path):
    (tmp_path / "a.pt").touch()
    for name in ("b:ema", "a.pt:both"):
        (tmp_path / name).touch()
    assert split_key(f"{tmp_path}/a.pt:ema.model") == (tmp_path / "a.pt", "ema.model")
    for text in ("a.pt", "b:ema", "none:ema", "a.pt:", "a.pt:both"):
        assert split_key(f"{tmp_path}/{text}") == (tmp_path / text, "")
