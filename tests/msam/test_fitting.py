"""Which tensors of a file are a model's where several mappings, wrappers and leftovers are in it."""

from __future__ import annotations

import pytest
import torch

from msam.fitting import NamesDifferError, fitted, nearest

OWN = {"a": torch.ones(3), "b": torch.ones(3, 2), "c": torch.ones(4), "d": torch.ones(1)}


def test_what_lies_in_mappings_beside_the_weights_is_left_out():
    fit = fitted({"model": OWN | {"stats": {"mean": torch.ones(2)}}}, OWN, source="x")
    assert (fit.tensors.keys(), fit.unexpected, fit.entry, fit.left_out) == (OWN.keys(), {}, "model", ["model.stats"])


def test_a_mapping_that_has_most_names_is_the_models_though_another_is_larger():
    most = {name: OWN[name] for name in "abc"}
    averages = {f"average{number}": torch.ones(1) for number in range(9)}
    fit = fitted({"model": most, "optimizer": averages}, OWN, source="x")
    assert (fit.entry, [*fit.tensors], fit.unexpected) == ("model", ["a", "b", "c"], {})


def test_where_no_shape_is_that_of_the_model_names_decide():
    other = {name: torch.ones(7, 7) for name in OWN}
    fit = fitted({"model": other, "last": {"a": torch.ones(7, 7)}}, OWN, source="x")
    assert (fit.entry, [*fit.tensors]) == ("model", [*OWN])


def test_an_entry_that_has_half_of_the_names_could_be_meant_too():
    half = {name: OWN[name] for name in "ab"}
    with pytest.raises(
        ValueError, match=r"several entries that could be the weights: model, ema\. Choose one, as x:mod"
    ):
        fitted({"model": OWN, "ema": half}, OWN, source="x")


@pytest.mark.parametrize(("part", "wrapper"), [("module.", "_orig_mod."), ("_orig_mod.", "")])
def test_no_more_of_wrappers_is_taken_from_names_than_the_model_lacks(part, wrapper):
    own = {"net.weight": torch.zeros(2), f"net.{part}weight": torch.ones(2)}  # it has a part that is called so
    content = {name.replace("net.", f"net.{wrapper}"): tensor for name, tensor in own.items()}
    fit = fitted(content, own, source="x")
    assert all(torch.equal(fit.tensors[name], tensor) for name, tensor in own.items())


def test_the_nearest_name_is_one_of_the_same_shape():
    missing = {"layers.weight": torch.ones(2), "layers.weights": torch.ones(3)}
    assert nearest({"layer.weight": torch.ones(3)}, missing) == {"layer.weight": "layers.weights"}
    assert nearest({"layer.weight": torch.ones(4)}, missing) == {"layer.weight": ""}


@pytest.mark.parametrize(
    ("missing", "unexpected", "says_less"),
    [
        ("abc", {"x": ""}, False),
        ("a", {"x": "a"}, True),  # the nearest name is in the lines alone
        ("abcd", {"x": ""}, True),
        ("a", dict.fromkeys("wxyz", ""), True),
    ],
)
def test_what_the_first_line_of_differing_names_leaves_out_is_known(missing, unexpected, says_less):
    error = NamesDifferError("x.pt", missing=[*missing], unexpected=unexpected, reshaped=[])
    assert error.says_less_than_lines == says_less
    assert ("(perhaps a)" in str(error)) == ("a" in unexpected.values())
    assert "perhaps" not in str(error).splitlines()[0]
