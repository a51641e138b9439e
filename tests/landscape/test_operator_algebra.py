"""Numbers that operators are multiplied by, vectors that are complex, and weights that are changed afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import normal, problem

from landscape import CurvatureOperator, HessianOperator, Objective


@pytest.mark.parametrize("factor", [2, -0.5, 0, np.float32(2), np.array(2.0), torch.tensor(2.0)])
def test_multiples_by_numbers_of_any_kind_are_operators(factor):
    hessian = HessianOperator(problem("tanh_mlp").objective())
    for multiple in (factor * hessian, hessian * factor):
        assert isinstance(multiple, CurvatureOperator)
        assert torch.allclose(multiple.apply(normal(31)), float(factor) * hessian.apply(normal(31)), rtol=1e-12)


def test_halves_and_sums_of_lists_are_operators():
    hessian = HessianOperator(problem("tanh_mlp").objective())
    for same in (sum([hessian, hessian]) / 2, -1 * -hessian):
        assert isinstance(same, CurvatureOperator)
        assert torch.allclose(same.apply(normal(31)), hessian.apply(normal(31)), rtol=1e-12)


def test_a_factor_that_is_not_finite_is_refused():
    hessian = HessianOperator(problem("tanh_mlp").objective())
    with pytest.raises(ValueError, match="multiplied by finite numbers; got nan"):
        hessian * float("nan")
    with pytest.raises(ValueError, match="cannot be divided by zero"):
        hessian / np.float64(0)


def test_factors_that_are_close_have_names_of_their_own():
    hessian = HessianOperator(problem("tanh_mlp").objective())
    names = [(factor * hessian).settings()["name"] for factor in (1.0000001, 1.0000002)]
    assert names[0] != names[1]


def test_models_that_differ_in_frozen_numbers_cannot_be_added():
    given, other = problem("conv_batch_norm"), problem("conv_batch_norm")
    other.model[1].running_mean += 1
    with pytest.raises(ValueError, match="of the same objective at the same weights"):
        HessianOperator(given.objective()) + HessianOperator(other.objective())


def test_complex_vectors_keep_their_imaginary_part():
    hessian = HessianOperator(problem("tanh_mlp").objective())
    x, y = normal(31).numpy(), normal(31, seed=1).numpy()
    assert np.allclose(hessian @ (x + 1j * y), hessian @ x + 1j * (hessian @ y), rtol=1e-12)


def test_an_operator_stays_where_it_was_made_and_says_so():
    objective = problem("tanh_mlp").objective()
    hessian = HessianOperator(objective)
    name = hessian.manifest()["subject"]["weights"]
    before = HessianOperator(objective).apply(normal(31))
    objective.weights.mul_(1.5)
    assert torch.equal(hessian.apply(normal(31)), before)
    assert hessian.manifest()["subject"]["weights"] == name
    places = objective.space.select("2.*").dim
    whole = hessian.apply(torch.eye(31).double())
    assert torch.allclose(
        hessian.block("2.*").apply(torch.eye(places).double()), whole[16:, 16:], rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("part", ["all", "frozen", "loss"])
def test_numbers_on_several_devices_are_refused(part):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    loss = torch.nn.CrossEntropyLoss()
    if part == "all":
        model = model.to("meta")
    elif part == "frozen":
        model[0].requires_grad_(False).to("meta")
    else:
        loss = torch.nn.CrossEntropyLoss(weight=torch.ones(2, device="meta"))
    with pytest.raises(ValueError, match=r"weight of the (model|loss) is on the device 'meta', which has shapes"):
        Objective(model, loss, [(torch.zeros(4, 3), torch.zeros(4).long())])


def test_data_without_numbers_are_refused():
    data = [(torch.zeros(4, 3, device="meta"), torch.zeros(4).long())]
    with pytest.raises(ValueError, match="a tensor of the data is on the device 'meta', which has shapes"):
        Objective(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), data)


def test_a_gradient_that_is_not_finite_is_called_so():
    model = torch.nn.Linear(3, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    data = [(normal(5, 3), normal(5, 1))]
    with pytest.raises(ValueError, match="the gradient at the model's weights is not finite where the loss is"):
        Objective(model, lambda outputs, targets: outputs.square().sqrt().mean(), data)


def test_what_is_no_objective_and_what_are_no_weights_are_refused():
    with pytest.raises(TypeError, match="an operator is that of an Objective; got str"):
        HessianOperator("digits")
    with pytest.raises(ValueError, match=r"weights must be a tensor of shape \(31,\).*; got list"):
        HessianOperator(problem("tanh_mlp").objective(), weights=[1.0])


def test_an_unknown_denominator_is_found_by_gradients_where_all_losses_are_the_same():
    model = torch.nn.Linear(3, 7).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    y = torch.arange(1, 37).reshape(9, 4) % 7
    y[:4, 1:] = 0
    plain = torch.nn.functional.cross_entropy

    def loss(outputs, targets):
        return plain(outputs.reshape(-1, 7), targets.reshape(-1), ignore_index=0)

    with pytest.raises(ValueError, match="the gradient, projected on random signs, of a batch"):
        Objective(model, loss, [(normal(9, 4, 3), y)])
    Objective(model, loss, [(normal(9, 4, 3), y)], denominator=lambda o, t: (t != 0).sum())
