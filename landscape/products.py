"""Products of curvature matrices with vectors, for one batch: the graph is built once for all columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


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
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True, materialize_grads=True)
        return _pull_back(gradient, leaf, V)


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
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = w.detach().requires_grad_()
        heads = outputs(leaf)
        cotangent = torch.zeros_like(heads, requires_grad=True)
        # J'u is linear in u, so its own backward pass is the forward product J v.
        (pulled,) = torch.autograd.grad(heads, leaf, cotangent, create_graph=True, materialize_grads=True)
        pushed = _pull_back(pulled, cotangent, V)  # (outputs, k)
        free = heads.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(free), free, create_graph=True, materialize_grads=True)
        curved = _pull_back(slope.reshape(-1), free, pushed)  # (outputs, k)
        return _pull_back(heads.reshape(-1), leaf, curved)


def _pull_back(function: Tensor, leaf: Tensor, V: Tensor) -> Tensor:
    """(∂function/∂leaf)' V, column by column: ``(function.numel(), k)`` -> ``(leaf.numel(), k)``."""
    if not function.requires_grad:  # constant in the leaf, as the gradient of a linear function is
        return torch.zeros(leaf.numel(), V.shape[1], dtype=V.dtype, device=V.device)
    try:
        columns = [
            torch.autograd.grad(function, leaf, v, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for v in V.T
        ]
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise ValueError(
            f"an operation of this model has no second derivative ({error}). Use a differentiable variant of it: "
            "attention outside a fused kernel, an RNN outside cuDNN, a module that is not compiled."
        ) from None
    return torch.stack(columns, dim=1)
