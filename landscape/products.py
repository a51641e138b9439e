"""Products of curvature matrices with vectors, for one batch: the graph is built once for all columns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_NO_SECOND_DERIVATIVE = ("derivative", "double backward")  # in what torch says of kernels, and of compiled modules
_NO_DEPENDENCE = (
    "the loss does not depend on the weights to measure: none of them is used, or the model or the loss detaches "
    "them, or `forward` calls another model than the one it is given, or the call stands under "
    "torch.inference_mode(). Select other weights, or remove the cause."
)


def hessian_product(loss: Callable[[Tensor], Tensor], w: Tensor, V: Tensor) -> Tensor:
    """∇²loss(w) V by double backward.

    Args:
        loss: a scalar function of w.
        w: ``(dim,)``.
        V: ``(dim, k)``.

    Returns:
        A tensor, ``(dim, k)``.

    Raises:
        ValueError: if an operation of the model has no second derivative.
    """
    with torch.enable_grad(), second_derivatives():
        leaf = w.detach().requires_grad_()
        return _pull_back(slope_of(loss(leaf), leaf, create_graph=True), leaf, V)


def ggn_product(outputs: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor], w: Tensor, V: Tensor) -> Tensor:
    """J' (∂²loss/∂outputs²) J V, with J = ∂outputs/∂w: the generalised Gauss-Newton matrix (Schraudolph 2002).

    Args:
        outputs: the model's outputs as a function of w.
        loss: a scalar function of the outputs.
        w: ``(dim,)``.
        V: ``(dim, k)``.

    Returns:
        A tensor, ``(dim, k)``.
    """
    with torch.enable_grad(), second_derivatives():
        leaf = w.detach().requires_grad_()
        heads = outputs(leaf)
        if not isinstance(heads, Tensor):
            raise ValueError(f"a Gauss-Newton product needs outputs that are one tensor; got {type(heads).__name__}")
        _require_dependence(heads)
        cotangent = torch.zeros_like(heads, requires_grad=True)
        # J'u is linear in u, so its own backward pass is the forward product J v.
        (pulled,) = torch.autograd.grad(heads, leaf, cotangent, create_graph=True, materialize_grads=True)
        pushed = _pull_back(pulled, cotangent, V)  # (outputs, k)
        free = heads.detach().requires_grad_()
        slope = slope_of(loss(free), free, create_graph=True)
        curved = _pull_back(slope.reshape(-1), free, pushed)  # (outputs, k)
        return _pull_back(heads.reshape(-1), leaf, curved)


def second_derivatives() -> AbstractContextManager[None]:
    """Within it, attention is computed by operations that have a second derivative; fused kernels have none."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def slope_of(value: Tensor, leaf: Tensor, *, create_graph: bool = False) -> Tensor:
    """∂value/∂leaf for a scalar value.

    Raises:
        ValueError: if the value does not depend on the leaf.
    """
    _require_dependence(value)
    (slope,) = torch.autograd.grad(value, leaf, create_graph=create_graph, allow_unused=True)
    if slope is None:  # it depends on something else that requires gradients
        raise ValueError(_NO_DEPENDENCE)
    return slope


def _require_dependence(value: Tensor) -> None:
    if not value.requires_grad:
        raise ValueError(_NO_DEPENDENCE)


def _pull_back(function: Tensor, leaf: Tensor, V: Tensor) -> Tensor:
    """(∂function/∂leaf)' V, column by column: ``(function.numel(), k)`` -> ``(leaf.numel(), k)``."""
    if (
        not V.shape[1] or not function.requires_grad
    ):  # no column, or constant in the leaf, as the gradient of a linear function is
        return torch.zeros(leaf.numel(), V.shape[1], dtype=V.dtype, device=V.device)
    try:
        columns = [
            torch.autograd.grad(function, leaf, v, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for v in V.T
        ]
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _NO_SECOND_DERIVATIVE):
            raise
        raise ValueError(
            f"an operation of this model has no second derivative ({error}). Use a differentiable variant of it: "
            "attention outside a fused kernel, an RNN outside cuDNN, a module that is not compiled."
        ) from None
    return torch.stack(columns, dim=1)
