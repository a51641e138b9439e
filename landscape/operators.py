"""Curvature matrices as operators: known by their products, of any size, never formed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from landscape.checks import require_like
from landscape.manifest import hash_of_tensor
from landscape.objective import Objective


class CurvatureOperator(LinearOperator, ABC):
    """A symmetric ``(dim, dim)`` matrix at fixed weights of an objective.

    It is a scipy ``LinearOperator``, so ``scipy.sparse.linalg.eigsh`` and operator algebra take it; :meth:`apply` is
    the same product on tensors, on the device of the weights.

    Args:
        objective: the function whose curvature this is.
        weights: where, ``(dim,)``; the objective's own weights when left out.
    """

    def __init__(self, objective: Objective, *, weights: Tensor | None = None) -> None:
        self.objective = objective
        self.weights = objective.weights if weights is None else weights.detach()
        dim = objective.space.dim
        if self.weights.shape != (dim,):
            raise ValueError(f"weights must have shape ({dim},); got {tuple(self.weights.shape)}")
        require_like(self.weights, objective.weights, "weights")
        super().__init__(torch.empty(0, dtype=self.weights.dtype).numpy().dtype, (dim, dim))  # type: ignore[call-arg]

    @abstractmethod
    def apply(self, V: Tensor) -> Tensor:
        """The product with one vector ``(dim,)`` or a block ``(dim, k)``, in the shape of ``V``."""

    @property
    def dim(self) -> int:
        """The number of rows."""
        return int(self.shape[0])

    def manifest(self) -> dict[str, Any]:
        """The objective's manifest, with the weights and the name of this operator."""
        manifest = self.objective.manifest()
        manifest["subject"]["weights"] = hash_of_tensor(self.weights)
        return manifest | {"operator": {"name": type(self).__name__}}

    def _matmat(self, X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        own = np.array(X)  # X may be frozen, as results are; torch warns of that
        V = torch.as_tensor(own, dtype=self.weights.dtype, device=self.weights.device)
        product: np.ndarray[Any, Any] = self.apply(V).cpu().numpy()
        return product

    def _matvec(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._matmat(x.reshape(-1))

    def _adjoint(self) -> CurvatureOperator:
        return self


class HessianOperator(CurvatureOperator):
    """∇²L(w).

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))
    >>> hessian.apply(torch.ones(1)).item()  # d²/dw² (3w - 1)²
    18.0
    """

    def apply(self, V: Tensor) -> Tensor:
        """∇²L(w) V."""
        return self.objective.hvp(self.weights, V)


class GGNOperator(CurvatureOperator):
    """The generalised Gauss-Newton matrix G(w) of L (Schraudolph 2002): positive semi-definite for convex losses.

    H = G + R, where R carries the curvature of the network itself; for a network linear in its weights G = H.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    >>> GGNOperator(Objective(model, torch.nn.functional.mse_loss, data)).apply(torch.ones(1)).item()
    18.0
    """

    def apply(self, V: Tensor) -> Tensor:
        """G(w) V."""
        return self.objective.ggn_product(self.weights, V)


def require_operator(value: object) -> None:
    """What is measured by its products must be an operator."""
    if not isinstance(value, CurvatureOperator):
        wrapped = "HessianOperator(objective)" if isinstance(value, Objective) else "a HessianOperator or a GGNOperator"
        advice = f"Wrap it in {wrapped}." if isinstance(value, Objective) else f"Pass {wrapped}."
        raise TypeError(f"operator must be a curvature operator; got {type(value).__name__}. {advice}")
