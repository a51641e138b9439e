from __future__ import annotations

import pytest
import torch
from problems import TiedAutoencoder, WithUnused, half_frozen, normal, tanh_mlp
from torch import nn

from landscape import ParameterSpace


def test_names_shapes_and_dim_are_those_of_the_model():
    model = tanh_mlp()
    space = ParameterSpace.of(model)
    assert space.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert space.shapes == tuple(p.shape for p in model.parameters())
    assert space.sizes == [12, 4, 12, 3]
    assert space.dim == 31


def test_flatten_puts_the_blocks_end_to_end_in_row_major_order():
    model = tanh_mlp()
    flat = ParameterSpace.of(model).flatten(dict(model.named_parameters()))
    assert torch.equal(flat, nn.utils.parameters_to_vector(model.parameters()))


def test_flatten_undoes_unflatten_also_for_transposed_blocks():
    space = ParameterSpace.of(tanh_mlp())
    vector = normal(space.dim)
    assert torch.equal(space.flatten(space.unflatten(vector)), vector)
    odd = {
        name: block.T.contiguous().T if block.ndim == 2 else block for name, block in space.unflatten(vector).items()
    }
    assert torch.equal(space.flatten(odd), vector)


def test_flatten_returns_a_new_tensor_even_for_a_single_block():
    model = nn.Linear(2, 1, bias=False)
    flat = ParameterSpace.of(model).flatten({"weight": model.weight.detach()})
    assert flat.data_ptr() != model.weight.data_ptr()


def test_split_gives_views():
    space = ParameterSpace.of(tanh_mlp())
    vector = torch.zeros(space.dim)
    space.split(vector)[1].fill_(1.0)
    assert vector.nonzero().flatten().tolist() == [12, 13, 14, 15]


def test_tied_weights_count_once():
    space = ParameterSpace.of(TiedAutoencoder())
    assert space.names == ("first.weight", "first.bias", "second.bias")
    assert space.dim == 15


def test_frozen_weights_are_left_out():
    assert ParameterSpace.of(half_frozen()).names == ("2.weight", "2.bias")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("0.*", ("0.weight", "0.bias")),
        ("*.bias", ("0.bias", "2.bias")),
        ("2.weight", ("2.weight",)),
        ("*", ("0.weight", "0.bias", "2.weight", "2.bias")),
    ],
)
def test_a_pattern_selects_blocks_by_name_in_their_order(pattern, names):
    space = ParameterSpace.of(tanh_mlp()).select(pattern)
    assert space.names == names
    assert space.dim == sum(shape.numel() for shape in space.shapes)


def test_a_pattern_that_matches_nothing_is_refused_with_names_that_are_near():
    with pytest.raises(ValueError, match=r"no trainable parameter matches 'unusd\.\*'; there are.*unused\.weight"):
        ParameterSpace.of(WithUnused()).select("unusd.*")


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match=r"the model \(Linear\) has no trainable parameter"):
        ParameterSpace.of(nn.Linear(2, 2).requires_grad_(False))


def test_weights_of_two_dtypes_are_refused_with_both():
    model = tanh_mlp()
    model[2].double()
    with pytest.raises(ValueError, match=r"must share one dtype; got torch.float32, torch.float64\. Use model\.to"):
        ParameterSpace.of(model)


def test_weights_on_two_devices_are_refused_with_both():
    model = tanh_mlp()
    model[2].to("meta")
    with pytest.raises(ValueError, match="must share one device; got cpu, meta"):
        ParameterSpace.of(model)


@pytest.mark.parametrize("shape", [(30,), (32,), (31, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected a vector of shape \(31,\), one per weight; got"):
        ParameterSpace.of(tanh_mlp()).split(torch.zeros(shape))


def test_the_weights_of_a_model_are_a_vector_and_those_of_another_architecture_are_refused():
    model = nn.Linear(3, 2)
    space = ParameterSpace.of(model)
    assert torch.equal(space.weights_of(model), torch.cat([model.weight.detach().ravel(), model.bias.detach()]))
    with pytest.raises(ValueError, match=r"weight are of shape \(2, 3\); the other model has it in shape \(2, 4\)"):
        space.weights_of(nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"bias are of shape .*; the other model has no such block"):
        space.weights_of(nn.Linear(3, 2, bias=False))
