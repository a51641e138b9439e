"""Weights from elsewhere go into a model by its own names, all or none, and every liberty is said."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from msam import load_foreign
from msam.checkpoints import save_weights
from msam.fitting import NamesDifferError


class Tied(nn.Module):
    """Two layers that share a weight, batch norm, and a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("position_ids", torch.arange(3), persistent=False)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.fixture
def fresh(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    return other


def loaded(fresh, content, folder, **options):
    torch.save(content, folder / "a.pt")
    return load_foreign(fresh, folder / "a.pt", **options)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def renamed(model, before):
    return {f"{before}{name}": tensor for name, tensor in model.state_dict().items()}


def test_a_plain_state_dict_is_loaded_without_a_remark(model, fresh, tmp_path):
    found = loaded(fresh, model.state_dict(), tmp_path)
    assert (found.entry, found.num_tensors, found.remarks) == ("", 9, ())
    assert same(model, fresh)


def test_a_checkpoint_of_our_own_is_loaded_without_a_remark(model, fresh, tmp_path):
    save_weights(model, tmp_path / "a.safetensors")
    assert load_foreign(fresh, tmp_path / "a.safetensors").remarks == ()
    assert same(model, fresh)


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict", "ema", "module", "net", "a.b.c"])
def test_nested_weights_are_found_and_the_rest_is_named(entry, model, fresh, tmp_path):
    content = model.state_dict()
    for name in reversed(entry.split(".")):
        content = {name: content}
    sgd = torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9)
    fresh(torch.ones(5, 4)).sum().backward()
    sgd.step()
    beside = {"epoch": 3, "optimizer": sgd.state_dict(), "loss": torch.tensor(0.5), "history": {"loss": torch.ones(9)}}
    found = loaded(fresh, beside | content, tmp_path)
    assert same(model, fresh)
    assert found.entry == entry
    assert found.remarks[0] == f"the weights are its entry {entry!r}"
    said = set(found.remarks[-1].removeprefix("left out: ").split(", "))
    assert said == {"epoch", "optimizer", "loss", "history"}


@pytest.mark.parametrize(
    "before",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module.", "net.body."],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_names_begin_with_is_stripped_and_said(before, nested, model, fresh, tmp_path):
    content = renamed(model, before)
    found = loaded(fresh, {"state_dict": content} if nested else content, tmp_path)
    assert same(model, fresh)
    assert f"{before!r} is stripped from 9 names" in found.remarks


def test_what_wrappers_put_inside_names_is_stripped(fresh, tmp_path):
    parts = nn.Sequential(*(torch.compile(part, backend="eager") for part in copy.deepcopy(fresh)))
    assert "2._orig_mod.weight" in parts.state_dict()
    found = loaded(fresh, parts.state_dict(), tmp_path)
    assert same(fresh, parts)
    assert found.remarks == ("'_orig_mod.' is stripped from 9 names",)


def test_nothing_is_stripped_where_names_fit(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 1), "model": nn.Linear(2, 1)})
    assert loaded(copy.deepcopy(model), model.state_dict(), tmp_path).remarks == ()


def test_an_averaged_model_is_loaded_without_its_count(model, fresh, tmp_path):
    found = loaded(fresh, AveragedModel(model).state_dict(), tmp_path)
    assert same(model, fresh)
    assert found.remarks == ("'module.' is stripped from 9 names", "left out: counts of steps, n_averaged")


def test_mappings_within_mappings_are_names(model, fresh, tmp_path):
    content = {key: dict(part.state_dict()) for key, part in model.named_children()}
    assert loaded(fresh, {"params": content, "step": 3}, tmp_path).entry == "params"
    assert same(model, fresh)
    content["3"] = {"weight": torch.ones(2)}
    with pytest.raises(NamesDifferError, match=r"it has 1 others \(3\.weight\)"):
        loaded(fresh, {"params": content}, tmp_path)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (lambda m: {"model": m.state_dict(), "ema": m.state_dict()}, "model, ema"),
        (lambda m: {"module": m.state_dict(), "ema": m.state_dict()}, "module, ema"),
        (lambda m: {"model": {"a": m.state_dict(), "b": m.state_dict()}}, r"model\.a, model\.b"),
        (lambda m: renamed(m, "student.") | renamed(m, "teacher."), "student, teacher"),
    ],
)
def test_of_several_that_fit_one_is_to_be_chosen(content, shown, model, fresh, tmp_path):
    with pytest.raises(ValueError, match=rf"several entries that could be the weights: {shown}\. Choose one, as .*:"):
        loaded(fresh, content(model), tmp_path)


@pytest.mark.parametrize("nested", [True, False])
def test_the_entry_that_is_named_is_taken(nested, model, fresh, tmp_path):
    other = copy.deepcopy(fresh)
    content = (
        {"model": other.state_dict(), "ema": model.state_dict()}
        if nested
        else renamed(other, "model.") | renamed(model, "ema.")
    )
    found = loaded(fresh, content, tmp_path, key="ema")
    assert same(model, fresh)
    assert not any("its entry" in remark for remark in found.remarks)  # which it was told
    with pytest.raises(ValueError, match="has no entry 'em' with tensors in it"):
        loaded(fresh, content, tmp_path, key="em")
    with pytest.raises(ValueError, match=r"has no entry 'emma' with tensors in it; there are: model, ema"):
        loaded(fresh, content, tmp_path, key="emma")


def test_all_names_that_differ_are_listed_with_the_nearest(fresh, tmp_path):
    before = copy.deepcopy(fresh)
    state = {f"layer{name}" if name.startswith("0") else name: tensor for name, tensor in fresh.state_dict().items()}
    state["2.weight"] = torch.ones(2, 5)
    with pytest.raises(NamesDifferError) as caught:
        loaded(fresh, state, tmp_path)
    error = caught.value
    assert error.missing == ("0.weight", "0.bias")
    assert error.unexpected == ("layer0.weight", "layer0.bias")
    assert error.reshaped == ("2.weight has shape (2, 5) and should have (2, 3)",)
    assert "not in the model (2): layer0.weight (perhaps 0.weight), layer0.bias (perhaps 0.bias)" in str(error)
    assert same(before, fresh)


def test_names_that_happen_to_be_a_little_model_s_do_not_hide_that_the_file_is_of_another(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    parts = {
        f"layer{n}.0.downsample.{name}": torch.ones(7) for n in (2, 3) for name in ("0.weight", "1.weight", "1.bias")
    }
    with pytest.raises(NamesDifferError, match=r"it lacks 4 names .*; it has 7 others \(fc\.weight, layer2\.0"):
        loaded(model, {"fc.weight": torch.ones(7)} | parts, tmp_path)


def test_a_long_list_of_names_is_whole(fresh, tmp_path):
    state = {f"blocks.{i}.attention.weight": torch.ones(2) for i in range(100)}
    with pytest.raises(NamesDifferError) as caught:
        loaded(fresh, {"state_dict": state, "loss": torch.ones(1)}, tmp_path)
    first, *lines = str(caught.value).split("\n")
    assert first.endswith("it has 100 others (blocks.0.attention.weight, blocks.1.attention.weight, "
                          "blocks.2.attention.weight and 97 more)")  # fmt: skip
    assert all(name in "\n".join(lines) for name in [*state, "0.weight", "1.running_var"])
    assert max(map(len, lines)) <= 118


def test_one_name_of_tied_weights_is_enough_and_two_must_agree(tmp_path):
    model, fresh = Tied(), Tied()
    state = model.state_dict()
    del state["last.weight"]
    assert loaded(fresh, state, tmp_path).remarks == ("last.weight is not in it; the model ties it to first.weight",)
    assert same(model, fresh)
    with pytest.raises(ValueError, match=r"ties first\.weight and last\.weight, and .* has different values for them"):
        loaded(fresh, state | {"last.weight": torch.ones(3, 3)}, tmp_path)


def test_counts_may_be_missing_and_other_buffers_may_not(model, fresh, tmp_path):
    state = model.state_dict()
    del state["1.num_batches_tracked"]
    (remark,) = loaded(fresh, state, tmp_path).remarks
    assert remark == "1 counts are not in it (num_batches_tracked), which decide no output; they stay at the start"
    del state["1.running_var"]
    with pytest.raises(NamesDifferError, match=r"it lacks 1 names \(1\.running_var\)"):
        loaded(fresh, state, tmp_path)


def test_buffers_that_the_model_makes_itself_are_left_out_where_they_are_equal(tmp_path):
    model = Tied()
    found = loaded(Tied(), model.state_dict() | {"position_ids": torch.arange(3)}, tmp_path)
    assert found.remarks == ("left out: buffers that the model makes by itself, position_ids",)
    with pytest.raises(NamesDifferError, match=r"it has 1 others \(position_ids\)"):
        loaded(Tied(), model.state_dict() | {"position_ids": torch.arange(1, 4)}, tmp_path)


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", ""), ("bfloat16", ""), ("float64", ", which rounds them")])
def test_other_kinds_of_floats_are_converted_and_said(dtype, rounding, model, fresh, tmp_path):
    converted = copy.deepcopy(model).to(getattr(torch, dtype))
    safetensors.torch.save_file(converted.state_dict(), tmp_path / "a.safetensors")
    found = load_foreign(fresh, tmp_path / "a.safetensors")
    assert found.remarks == (f"8 tensors of {dtype} are converted to float32{rounding}",)
    assert fresh[0].weight.dtype == torch.float32
    assert torch.equal(fresh[0].weight, converted[0].weight.float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to(torch.int8), "0.weight is of integers (int8) and should be of floats (float32)"),
        (lambda t: t.to_sparse(), "0.weight is sparse (float32) and should be of floats (float32)"),
    ],
)
def test_weights_of_another_kind_are_refused(change, words, fresh, tmp_path):
    with pytest.raises(NamesDifferError) as caught:
        loaded(fresh, fresh.state_dict() | {"0.weight": change(fresh[0].weight.detach())}, tmp_path)
    assert caught.value.reshaped == (words,)


@pytest.mark.parametrize(("name", "value"), [("2.bias", "nan"), ("2.bias", "inf"), ("1.running_mean", "nan")])
def test_weights_that_are_not_numbers_are_refused_by_name(name, value, fresh, tmp_path):
    state = copy.deepcopy(fresh.state_dict())
    state[name][1] = float(value)
    with pytest.raises(ValueError, match=rf"holds numbers that are not finite, in {name}; use a checkpoint"):
        loaded(fresh, state, tmp_path)


def test_a_number_that_does_not_fit_the_dtype_of_the_model_is_refused(fresh, tmp_path):
    state = copy.deepcopy(fresh).double().state_dict()
    state["2.bias"][1] = 1e300
    with pytest.raises(ValueError, match=r"holds numbers that are not finite, in 2\.bias"):
        loaded(fresh, state, tmp_path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state": {0: {"exp_avg": torch.ones(2)}}}])
def test_a_file_without_named_tensors_is_refused(content, fresh, tmp_path):
    with pytest.raises(ValueError, match=r"holds no named tensors; save model\.state_dict\(\)"):
        loaded(fresh, content, tmp_path)


def test_two_tensors_for_one_name_are_refused(model, fresh, tmp_path):
    with pytest.raises(ValueError, match=r"has two tensors for 0\.weight, one of them module\.0\.weight"):
        loaded(fresh, model.state_dict() | {"module.0.weight": model[0].weight.detach()}, tmp_path)


def test_nothing_is_put_where_there_is_no_place_for_numbers(model, fresh, tmp_path):
    with pytest.raises(ValueError, match=r"0\.weight of the model is on the device 'meta', which has shapes"):
        loaded(fresh.to("meta"), model.state_dict(), tmp_path)
    with pytest.raises(ValueError, match=r"the model \(Flatten\) has no weights that those of .*a\.pt could be put"):
        loaded(nn.Flatten(), model.state_dict(), tmp_path)
    with pytest.raises(ValueError, match=r"0\.weight of .*a\.pt is on the device 'meta', which has shapes"):
        loaded(model, copy.deepcopy(model).to("meta").state_dict(), tmp_path)


def test_a_buffer_may_hold_infinities(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    assert loaded(copy.deepcopy(model), model.state_dict(), tmp_path).remarks == ()


def test_what_is_rounded_is_said_and_whole_numbers_are_not(tmp_path):
    model = nn.Linear(1, 1).half()
    model.register_buffer("index", torch.arange(2, dtype=torch.int32))
    state = {name: t.long() if name == "index" else t.bfloat16() for name, t in model.state_dict().items()}
    assert loaded(model, state, tmp_path).remarks == (
        "2 tensors of bfloat16 are converted to float16, which rounds them",
        "1 tensors of int64 are converted to int32",
    )


def test_mappings_that_have_no_end_are_not_followed_and_two_names_are_not_one(model, fresh, tmp_path):
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"two entries of the file are both called 0\.weight"):
        loaded(fresh, state | {"0": {"weight": state["0.weight"]}}, tmp_path)
    for _ in range(12):
        state = {"deeper": state}
    with pytest.raises(ValueError, match="holds no named tensors"):
        loaded(fresh, state, tmp_path)
