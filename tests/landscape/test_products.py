from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import normal, problem
from undifferentiable import Compiled

from landscape.products import gauss_newton_at, hessian_at, loss_and_slopes, slope_of


def hessian_product(loss, w, V):
    return hessian_at(loss, w)(V)


def ggn_product(outputs, loss, w, V):
    return gauss_newton_at(outputs, loss, w)(V)


def test_a_gradient_in_blocks_is_zero_for_those_of_no_use_and_refused_where_none_is_of_any():
    elsewhere = torch.ones((), requires_grad=True)
    loss, slopes = loss_and_slopes(lambda blocks: (blocks[0] ** 2).sum() + elsewhere, [torch.ones(2), torch.ones(3)])
    assert (loss.item(), [slope.tolist() for slope in slopes]) == (3.0, [[2.0, 2.0], [0.0, 0.0, 0.0]])
    assert not loss.requires_grad
    with pytest.raises(ValueError, match="the loss does not depend on the weights to measure"):
        loss_and_slopes(lambda blocks: 2 * elsewhere, [torch.ones(2)])


def test_the_hessian_of_a_cubic_is_diagonal():
    w, V = normal(4), normal(4, 3, seed=1)
    product = hessian_product(lambda v: (v**3).sum(), w, V)
    assert torch.allclose(product, 6 * w[:, None] * V, rtol=1e-14, atol=0)


def test_the_hessian_of_a_linear_function_is_zero():
    c = normal(4)
    assert torch.equal(hessian_product(lambda v: c @ v, normal(4), normal(4, 2)), torch.zeros(4, 2).double())


def test_the_gauss_newton_product_leaves_out_the_curvature_of_the_outputs():
    w, V = normal(4), normal(4, 3, seed=1)
    product = ggn_product(lambda v: v**2, lambda z: (z**2).sum(), w, V)  # J = 2 diag w, inner 2 I
    assert torch.allclose(product, 8 * w[:, None] ** 2 * V, rtol=1e-14, atol=0)


def test_the_gauss_newton_product_of_a_linear_loss_is_zero():
    assert not ggn_product(lambda v: v**2, lambda z: z.sum(), normal(4), normal(4, 2)).any()


def test_products_are_taken_without_gradients_left_on_the_vectors():
    w, V = normal(3).requires_grad_(), normal(3, 2).requires_grad_()
    assert not hessian_product(lambda v: (v**3).sum(), w, V).requires_grad
    assert w.grad is None


def test_products_work_where_the_caller_has_switched_gradients_off():
    w, V = normal(4), normal(4, 3, seed=1)
    with torch.no_grad():
        product = hessian_product(lambda v: (v**3).sum(), w, V)
    assert torch.allclose(product, 6 * w[:, None] * V, rtol=1e-14, atol=0)


def test_fused_attention_is_replaced_by_one_with_a_second_derivative():
    q = normal(1, 1, 5, 4)

    def loss(v):
        return F.scaled_dot_product_attention(q * v, q, q).square().sum()

    product = hessian_product(loss, normal(4), torch.eye(4, dtype=torch.float64))
    assert torch.allclose(product, product.T, rtol=1e-10, atol=1e-12)
    assert product.abs().max() > 1e-3


def connectionist(v):
    logits = (normal(6, 1, 3) * v).log_softmax(dim=2)
    return F.ctc_loss(logits, torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]))


@pytest.mark.parametrize("loss", [connectionist, lambda v: Compiled.apply(v).sum()], ids=["kernel", "compiled"])
def test_an_operation_without_a_second_derivative_is_refused_with_a_way_out(loss):
    with pytest.raises(ValueError, match=r"an operation of this model has no second derivative.*that is not compiled"):
        hessian_product(loss, normal(3), normal(3, 1))


def test_another_error_inside_a_product_is_passed_on():
    with pytest.raises(RuntimeError, match=r"size|shape"):
        hessian_product(lambda v: (v**3).sum(), normal(3), normal(4, 1))


def test_a_value_that_does_not_depend_on_the_weights_is_refused_and_not_called_flat():
    leaf = normal(3).requires_grad_()
    with pytest.raises(ValueError, match="the loss does not depend on the weights to measure"):
        slope_of(leaf.detach().sum(), leaf)
    with pytest.raises(ValueError, match="the loss does not depend on the weights to measure"):
        hessian_product(lambda v: v.detach().sum(), normal(3), normal(3, 1))
    with pytest.raises(ValueError, match="the loss does not depend on the weights to measure"):
        ggn_product(lambda v: v.detach(), torch.sum, normal(3), normal(3, 1))


def test_outputs_that_are_not_one_tensor_are_refused_by_the_gauss_newton_product():
    with pytest.raises(ValueError, match="needs outputs that are one tensor; got tuple"):
        ggn_product(lambda v: (v, v), lambda z: z[0].sum(), normal(3), normal(3, 1))


def test_weights_that_numpy_has_changed_are_new_weights():
    objective = problem("tanh_mlp").objective()
    w, v = objective.weights.clone(), torch.ones_like(objective.weights)
    before = objective.hvp(w, v)
    w.numpy()[:] *= 2  # which no version counter sees
    assert torch.equal(objective.hvp(w, v), objective.hvp(w.clone(), v))
    assert not torch.equal(objective.hvp(w, v), before)
    with torch.inference_mode():
        frozen = w.clone()
    assert torch.equal(objective.hvp(frozen, v), objective.hvp(w, v))
