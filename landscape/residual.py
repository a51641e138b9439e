"""H − G, the curvature of the network itself, without the difference of two large matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.curvatures import Curvature
from landscape.operators import OfOneKind
from landscape.products import Scalar, hessian_at, hessian_forward, hessian_quotient, one_tensor, slope_of
from landscape.terms import Term


def _pushed(term: Term, w: Tensor) -> Scalar:
    """u ↦ ⟨∂loss/∂outputs at w, outputs(u)⟩, whose Hessian at w is Σ_k (∂loss/∂outputs_k) ∇²outputs_k."""
    with torch.no_grad():
        heads = one_tensor(term.outputs(w))
    with torch.enable_grad():
        free = heads.detach().requires_grad_()
        slope = slope_of(term.loss_of_outputs(free), free)
    return lambda u: (slope * term.outputs(u)).sum()


RESIDUAL = Curvature(
    "residual of the Gauss-Newton matrix",
    at=lambda term, w: hessian_at(_pushed(term, w), w),
    forward=lambda term, w: hessian_forward(_pushed(term, w), w),
    quotient=lambda term, w, step: hessian_quotient(_pushed(term, w), w, step),
)


class ResidualOperator(OfOneKind):
    """R(w) = H − G = Σᵢ Σ_k (∂L/∂f_ik) ∇²f_ik, with f_ik the k-th output for example i.

    The same matrix as ``HessianOperator(objective) - GGNOperator(objective)``, for the price of one of them and without
    what is lost in the difference. It is zero for a network linear in its weights; where activations are piecewise
    linear, as ReLU, and no weight acts twice, its diagonal is zero, and so is its trace.

    >>> from landscape.objective import Objective
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    >>> ResidualOperator(Objective(model, torch.nn.functional.mse_loss, data)).apply(torch.ones(1)).item()
    0.0
    """

    kind = RESIDUAL
