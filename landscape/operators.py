"""Curvature matrices as operators: known by their products, of any size, never formed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from landscape.arguments import real
from landscape.bound import CurvatureAt
from landscape.checks import require_like
from landscape.curvatures import FISHER, GAUSS_NEWTON, HESSIAN, Curvature
from landscape.manifest import hash_of_tensor
from landscape.objective import Objective


class CurvatureOperator(LinearOperator, ABC):
    """A symmetric ``(dim, dim)`` matrix at fixed weights of an objective.

    It is a scipy ``LinearOperator``, so ``scipy.sparse.linalg.eigsh`` and operator algebra take it; :meth:`apply` is
    the same product on tensors, on the device of the weights. Sums, differences and multiples of operators at the same
    weights are operators of this kind again.

    Args:
        objective: the function whose curvature this is.
        weights: where, ``(dim,)``; the objective's own weights when left out. A copy of them is taken.
    """

    def __init__(self, objective: Objective, *, weights: Tensor | None = None) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(f"an operator is that of an Objective; got {type(objective).__name__}")
        self.objective = objective
        dim = objective.space.dim
        if weights is not None:
            if isinstance(weights, Tensor) and weights.shape != (dim,):
                raise ValueError(f"weights must have shape ({dim},); got {tuple(weights.shape)}")
            require_like(weights, objective.weights, "weights")
        self.weights = (objective.weights if weights is None else weights).detach().clone()
        super().__init__(torch.empty(0, dtype=self.weights.dtype, device="cpu").numpy().dtype, (dim, dim))  # type: ignore[call-arg]

    @abstractmethod
    def apply(self, V: Tensor) -> Tensor:
        """The product with one vector ``(dim,)`` or a block ``(dim, k)``, in the shape of ``V``."""

    @abstractmethod
    def over(self, objective: Objective) -> CurvatureOperator:
        """The same matrix of another objective at the same weights, such as one of a part of the data."""

    @property
    @abstractmethod
    def words(self) -> str:
        """How products are computed."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether products are derivatives, and not differences of such; known from the first product on."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What tells the matrix from others of the same objective."""

    @property
    def dim(self) -> int:
        """The number of rows."""
        return int(self.shape[0])

    def block(self, pattern: str) -> CurvatureOperator:
        """The diagonal block of the weights whose names match a pattern, such as ``"head.*"``.

        Its products are those of a loss in which the other weights are constants, and cost accordingly less.

        Raises:
            ValueError: if nothing matches.
        """
        return self._with(self.here.select(pattern))

    def layers(self) -> Mapping[str, CurvatureOperator]:
        """The diagonal block of each layer, weight and bias together, by its name: of what it holds by itself."""
        held: dict[str, list[str]] = {}
        for name in self.objective.space.names:
            held.setdefault(name.rpartition(".")[0], []).append(name)
        return {layer: self._with(self.here.select(names)) for layer, names in held.items()}

    def manifest(self) -> dict[str, Any]:
        """The objective's manifest, with the weights, the name of this operator, and how its products are computed."""
        manifest = self.objective.manifest()
        manifest["subject"]["weights"] = hash_of_tensor(self.weights)
        manifest["machine"]["products"] = self.words
        return manifest | {"operator": self.settings() | ({} if self.is_exact else {"products": "differences"})}

    @property
    def here(self) -> Objective:
        """The objective with the weights of this matrix as its own."""
        here = torch.equal(self.weights, self.objective.weights)
        return self.objective if here else self.objective.at(self.weights)

    @abstractmethod
    def _with(self, objective: Objective) -> CurvatureOperator:
        """The same kind of matrix of an objective at that one's own weights."""

    def __add__(self, other: Any) -> Any:
        return (
            _Combination([(1.0, self), (1.0, other)])
            if isinstance(other, CurvatureOperator)
            else super().__add__(other)
        )

    def __sub__(self, other: Any) -> Any:
        return self + (-1.0) * other if isinstance(other, CurvatureOperator) else super().__sub__(other)

    __array_ufunc__ = None  # so that numpy's scalars leave products to this class

    def __mul__(self, other: Any) -> Any:
        return _Combination([(float(other), self)]) if _is_number(other) else super().__mul__(other)

    def __rmul__(self, other: Any) -> Any:
        return self * other if _is_number(other) else super().__rmul__(other)

    def __radd__(self, other: Any) -> Any:
        return self if _is_number(other) and float(other) == 0 else NotImplemented  # as sum() begins with

    def __truediv__(self, other: Any) -> Any:
        if _is_number(other) and float(other) == 0:
            raise ValueError("an operator cannot be divided by zero")
        return self * (1 / float(other)) if _is_number(other) else NotImplemented

    def __neg__(self) -> Any:
        return _Combination([(-1.0, self)])

    def _matmat(self, X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if np.iscomplexobj(X):
            return self._matmat(X.real) + 1j * self._matmat(X.imag)
        own = np.array(X)  # X may be frozen, as results are; torch warns of that
        V = torch.as_tensor(own, dtype=self.weights.dtype, device=self.weights.device)
        product: np.ndarray[Any, Any] = self.apply(V).cpu().numpy()
        return product

    def _matvec(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._matmat(x.reshape(-1))

    def _adjoint(self) -> CurvatureOperator:
        return self


class OfOneKind(CurvatureOperator):
    """An operator whose products are those of one kind of curvature matrix."""

    kind: ClassVar[Curvature]
    _at: CurvatureAt | None = None

    def apply(self, V: Tensor) -> Tensor:
        """The product with one vector ``(dim,)`` or a block ``(dim, k)``, in the shape of ``V``."""
        if self._at is None:
            self._at = self.objective.curvature(self.kind, self.weights)
        return self._at.product(V)

    def over(self, objective: Objective) -> CurvatureOperator:
        """See :class:`CurvatureOperator`."""
        return type(self)(objective, weights=self.weights)

    def _with(self, objective: Objective) -> CurvatureOperator:
        return type(self)(objective)

    @property
    def words(self) -> str:
        """See :class:`CurvatureOperator`."""
        return "none yet" if self._at is None else self._at.words

    @property
    def is_exact(self) -> bool:
        """See :class:`CurvatureOperator`."""
        return self._at is None or self._at.is_exact

    def settings(self) -> dict[str, Any]:
        """The name of the operator."""
        return {"name": type(self).__name__}


class HessianOperator(OfOneKind):
    """∇²L(w).

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))
    >>> hessian.apply(torch.ones(1)).item()  # d²/dw² (3w - 1)²
    18.0
    """

    kind = HESSIAN


class GGNOperator(OfOneKind):
    """The generalised Gauss-Newton matrix G(w) of L (Schraudolph 2002): positive semi-definite for convex losses.

    H = G + R, where R = ``HessianOperator(objective) - GGNOperator(objective)`` carries the curvature of the network
    itself; for a network linear in its weights G = H.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> data = [(torch.tensor([[3.0]]), torch.tensor([[1.0]]))]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> GGNOperator(objective).apply(torch.ones(1)).item()
    18.0
    >>> (HessianOperator(objective) - GGNOperator(objective)).apply(torch.ones(1)).item()
    0.0
    """

    kind = GAUSS_NEWTON


class EmpiricalFisherOperator(OfOneKind):
    """F(w) = Σᵢ dᵢ gᵢ gᵢ' / Σᵢ dᵢ with gᵢ the gradient of the loss of example i, which is a mean over dᵢ.

    For a plain mean over examples it is the uncentred covariance of their gradients. It is not the Fisher information
    matrix, whose targets are drawn from the model (Kunstner, Balles, Hennig 2019, arXiv 1905.12558). An example of
    several tokens has one gradient, of the mean over its tokens.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> data = [(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]]))]
    >>> fisher = EmpiricalFisherOperator(Objective(model, torch.nn.functional.mse_loss, data))
    >>> fisher.apply(torch.ones(1)).item()  # gradients -2 and -4
    10.0
    """

    kind = FISHER


class _Combination(CurvatureOperator):
    """Σ cᵢ Aᵢ of operators at the same weights."""

    def __init__(self, parts: list[tuple[float, CurvatureOperator]]) -> None:
        first = parts[0][1]
        for _, part in parts[1:]:
            ours, theirs = first.objective.manifest(), part.objective.manifest()
            same = ours["objective"] == theirs["objective"] and ours["subject"]["fixed"] == theirs["subject"]["fixed"]
            if not same or not torch.equal(part.weights, first.weights):
                raise ValueError("operators can be added when they are of the same objective at the same weights")
        super().__init__(first.objective, weights=first.weights)
        self.parts = parts

    def apply(self, V: Tensor) -> Tensor:
        image = self.parts[0][0] * self.parts[0][1].apply(V)
        for coefficient, part in self.parts[1:]:
            image = image + coefficient * part.apply(V)
        return image

    def over(self, objective: Objective) -> CurvatureOperator:
        return _Combination([(coefficient, part.over(objective)) for coefficient, part in self.parts])

    def _with(self, objective: Objective) -> CurvatureOperator:
        return _Combination([(coefficient, part._with(objective)) for coefficient, part in self.parts])

    @property
    def words(self) -> str:
        return "; ".join(dict.fromkeys(part.words for _, part in self.parts))

    @property
    def is_exact(self) -> bool:
        return all(part.is_exact for _, part in self.parts)

    def settings(self) -> dict[str, Any]:
        names = [f"{coefficient!r} · ({part.settings()['name']})" for coefficient, part in self.parts]
        return {"name": " + ".join(names)}


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    try:
        number = real(value, "a factor")
    except TypeError:
        return False
    if not math.isfinite(number):
        raise ValueError(f"an operator can be multiplied by finite numbers; got {number}")
    return True


def require_operator(value: object) -> None:
    """What is measured by its products must be an operator."""
    if not isinstance(value, CurvatureOperator):
        wrapped = "HessianOperator(objective)" if isinstance(value, Objective) else "a HessianOperator or a GGNOperator"
        advice = f"Wrap it in {wrapped}." if isinstance(value, Objective) else f"Pass {wrapped}."
        raise TypeError(f"operator must be a curvature operator; got {type(value).__name__}. {advice}")
