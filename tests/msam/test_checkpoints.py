"""Checkpoints are written whole or not at all, read without running anything, and loaded whole or not at all."""

from __future__ import annotations

import copy
import errno
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from msam.checkpoints import (
    load_optimizer_state,
    load_weights,
    read_state,
    read_weights,
    save_state,
    save_weights,
)


@pytest.fixture
def model(make_net):
    """With buffers, and with a tied layer."""
    net = make_net(torch.float32, nn.BatchNorm1d(5))
    net(torch.randn(7, 4))
    net.append(nn.Linear(5, 3))
    net[4].weight = net[3].weight
    return net


def same(model, other):
    return all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.values(), strict=True))


def torch_file(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def written(path, raw):
    path.write_bytes(raw)
    return path


class Dangerous:
    """Writes a marker file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_weights_buffers_and_tied_tensors_survive(model, tmp_path):
    save_weights(model, tmp_path / "new" / "a.safetensors")
    read = read_weights(tmp_path / "new" / "a.safetensors")
    assert sorted(read) == sorted(model.state_dict())
    assert same(model, {name: read[name] for name in model.state_dict()})
    assert read["1.num_batches_tracked"].dtype == torch.int64


def test_tied_tensors_are_stored_once_and_stay_tied_when_loaded(model, tmp_path):
    save_weights(model, tmp_path / "a.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert len(stored.keys() & {"3.weight", "4.weight"}) == 1
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        fresh[3].weight.zero_()
    load_weights(fresh, read_weights(tmp_path / "a.safetensors"), source="a")
    assert fresh[4].weight is fresh[3].weight
    assert same(model, fresh.state_dict())


def test_weights_that_are_not_contiguous_survive(tmp_path):
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(torch.arange(6.0).view(3, 2).T)
    layer.register_buffer("first", layer.weight.detach()[:1])  # which begins where the weights do
    save_weights(layer, tmp_path / "a.safetensors")
    read = read_weights(tmp_path / "a.safetensors")
    assert same(layer, {name: read[name] for name in layer.state_dict()})


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_of_plain_tensors_is_read(model, legacy, tmp_path):
    raw = torch_file(model.state_dict(), _use_new_zipfile_serialization=not legacy)
    assert same(model, read_weights(written(tmp_path / "a.pt", raw)))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, -1])
def test_a_truncated_safetensors_file_is_called_not_whole(kept, model, tmp_path):
    save_weights(model, tmp_path / "a.safetensors")
    raw = (tmp_path / "a.safetensors").read_bytes()
    cut = raw[: int(kept * len(raw)) if isinstance(kept, float) else kept]
    with pytest.raises(ValueError, match=r"a\.safetensors is not a whole safetensors file"):
        read_weights(written(tmp_path / "a.safetensors", cut))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 5, 50, 0.5, -30, -1])
def test_a_truncated_torch_file_is_called_damaged_and_not_dangerous(kept, legacy, model, tmp_path):
    raw = torch_file(model.state_dict(), _use_new_zipfile_serialization=not legacy)
    cut = raw[: int(kept * len(raw)) if isinstance(kept, float) else kept]
    with pytest.raises(ValueError, match=r"a\.pt is not a whole torch file"):
        read_weights(written(tmp_path / "a.pt", cut))


def numpy_archive():
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "raw",
    [b"", b"hello there\n", "naïve text".encode(), b"epoch,lr\n1,2\n", b'{"a": 1}', b"\x89PNG\r\n\x1a\n", b"\0" * 40],
    ids=["empty", "text", "unicode", "csv", "json", "png", "zeros"],
)
def test_a_file_of_another_format_is_called_not_whole(raw, suffix, tmp_path):
    with pytest.raises(ValueError, match=r"is not a whole (torch|safetensors) file"):
        read_weights(written(tmp_path / f"a.{suffix}", raw))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_numpy_archive_with_another_ending_is_called_not_whole(suffix, tmp_path):
    with pytest.raises(ValueError, match=r"is not a whole (torch|safetensors) file"):
        read_weights(written(tmp_path / f"a.{suffix}", numpy_archive()))


@pytest.mark.parametrize("reader", [read_weights, read_state])
@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle", "protocol 1", "protocol 0", "instance", "state"])
def test_code_in_a_pickle_is_not_run(form, reader, tmp_path):
    marker = tmp_path / "marker"
    content = {"weight": torch.ones(3), "bias": Dangerous(marker)}
    raw = {
        "torch": lambda: torch_file(content),
        "legacy torch": lambda: torch_file(content, _use_new_zipfile_serialization=False),
        "pickle": lambda: pickle.dumps(Dangerous(marker)),
        "protocol 1": lambda: pickle.dumps(Dangerous(marker), protocol=1),
        "protocol 0": lambda: pickle.dumps(Dangerous(marker), protocol=0),
        "instance": lambda: f"(S'{marker}'\nipathlib\nPath.touch\n.".encode(),
        "state": lambda: torch_file(Dangerous(marker)),
    }[form]()
    with pytest.raises(ValueError, match=r"a\.pt is refused: it is a pickle .* could run code"):
        reader(written(tmp_path / "a.pt", raw))
    assert not marker.exists()
    if form in ("pickle", "protocol 1", "protocol 0"):
        pickle.loads(raw)
        assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_pickle_without_code_or_cut_short_is_called_not_whole(protocol, tmp_path):
    for raw in (pickle.dumps({"weight": 1.0}, protocol), pickle.dumps(Dangerous("marker"), protocol)[:-1]):
        with pytest.raises(ValueError, match=r"a\.pt is not a whole torch file"):
            read_state(written(tmp_path / "a.pt", raw))


def test_a_whole_pickled_model_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="is refused"):
        read_weights(written(tmp_path / "a.pt", torch_file(model)))


@pytest.mark.parametrize("content", [3, [torch.ones(1)], {"weight": 1.0}, {"epoch": 1, "model": {}}])
def test_a_torch_file_of_other_things_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"not a mapping of names to tensors; save model\.state_dict\(\) alone"):
        read_weights(written(tmp_path / "a.pt", torch_file(content)))


@pytest.mark.parametrize("reader", [read_weights, read_state])
def test_a_file_that_is_not_there_is_named(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no (checkpoint|training state) at .*a\.pt"):
        reader(tmp_path / "a.pt")


def test_weights_of_another_architecture_are_refused_by_name_and_the_model_stays(make_net):
    target = make_net(torch.float32)
    before = copy.deepcopy(target.state_dict())
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).state_dict()
    with pytest.raises(
        ValueError, match=r"x is of another architecture.*0\.bias has shape \(6,\) and should have \(5,"
    ):
        load_weights(target, other, source="x")
    renamed = {name.replace("weight", "wieght"): tensor + 1 for name, tensor in before.items()}
    with pytest.raises(ValueError, match=r"it lacks 0\.weight.*it has 0\.wieght, .*perhaps 0\.wieght for 0\.weight"):
        load_weights(target, renamed, source="x")
    with pytest.raises(ValueError, match=r"than the model: it lacks 0\.bias$"):
        load_weights(target, {name: tensor + 1 for name, tensor in before.items() if name != "0.bias"}, source="x")
    many = {f"{number}.weight": torch.ones(1) for number in range(10, 15)}
    with pytest.raises(ValueError, match=r"it has 10\.weight, 11\.weight, 12\.weight and 2 more"):
        load_weights(target, before | many, source="x")
    assert same(target, before)


def test_a_training_state_survives(tmp_path):
    state = {"epoch": 3, "nested": {"values": [torch.arange(3), 0.5, "text", None]}, "random": torch.get_rng_state()}
    save_state(state, tmp_path / "state.pt")
    read = read_state(tmp_path / "state.pt")
    assert read["epoch"] == 3
    assert read["nested"]["values"][0].tolist() == [0, 1, 2]
    assert read["nested"]["values"][1:] == [0.5, "text", None]
    assert torch.equal(read["random"], state["random"])


@pytest.mark.parametrize("name", ["a.safetensors", "state.pt"])
def test_a_full_disk_leaves_the_old_file_whole_and_no_other(name, model, tmp_path, monkeypatch):
    def save(number):
        if name == "state.pt":
            return save_state({"number": number}, tmp_path / name)
        with torch.no_grad():
            model[0].bias.fill_(number)
        return save_weights(model, tmp_path / name)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(1)
    old = (tmp_path / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == old
    save(2)
    assert (tmp_path / name).read_bytes() != old


KINDS = {
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.1),
    "plain": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
}


def stepped(kind, model):
    """An optimizer's state after a step; the last layer is not used, and has none."""
    optimizer = KINDS[kind](model)
    model[:2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


def load(kind, model, state):
    optimizer = KINDS[kind](model)
    load_optimizer_state(optimizer, state, fresh=KINDS[kind](nn.Linear(2, 1, bias=False)), source="x")
    return optimizer


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_state_of_an_optimizer_survives(kind, make_net):
    model = make_net(torch.float32)
    state = stepped(kind, model)
    found = load(kind, model, state).state_dict()
    assert found["param_groups"] == state["param_groups"]
    assert found["state"].keys() == state["state"].keys() == (set() if kind == "plain" else {0, 1})
    for number, entries in state["state"].items():
        assert all(torch.equal(found["state"][number][name], entries[name]) for name in entries)


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: state["state"].clear(), "it is empty"),
        (lambda state: state.pop("state"), "'state'"),
        (lambda state: state.pop("param_groups"), "'param_groups'"),
        (lambda state: state["param_groups"][0].pop("weight_decay"), "the setting weight_decay is missing"),
        (lambda state: state["param_groups"][0]["params"].pop(), "doesn't match the size"),
        (lambda state: state["state"][0].popitem(), r"the shape of \w+ is none and should be \(5, 4\)"),
        (lambda state: state["state"][0].update({"momentum_buffer": 1, "exp_avg": 1}), "is none and should be"),
        (
            lambda state: state["state"][0].update({"momentum_buffer": torch.ones(4), "exp_avg": torch.ones(4)}),
            r"the shape of (momentum_buffer|exp_avg) is \(4,\) and should be \(5, 4\)",
        ),
    ],
)
def test_a_damaged_state_of_an_optimizer_is_named(damage, words, kind, make_net):
    model = make_net(torch.float32)
    state = stepped(kind, model)
    damage(state)
    with pytest.raises(
        ValueError, match=f"x is not the training state of this run .of the optimizer: .*{words}.*train anew with"
    ):
        load(kind, model, state)
