"""The ends of a spectrum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from landscape.answers import Eigenpairs
from landscape.arguments import integer, real
from landscape.lanczos import Krylov
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent

Which = Literal["LA", "SA", "LM"]
CONFIRMING_STEPS = 8


def top_eigenvalues(
    operator: CurvatureOperator,
    k: int = 1,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    max_products: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Eigenpairs:
    """The k extreme eigenvalues and eigenvectors, by Lanczos with full reorthogonalisation.

    A pair (θ, v) is converged when its residual ‖H v − θ v‖₂ is at most ``tol`` · |θ| (or rounding); some eigenvalue
    of H then lies within the residual of θ. The iteration stops when the k + 1 wanted pairs are converged. For k > 1
    a second chain from a fresh random vector then looks for eigenvalues that the first could not see, the copies of
    multiple ones; the search goes on for as long as it finds any.

    Args:
        operator: the symmetric matrix.
        k: number of pairs.
        which: ``"LA"`` the largest, ``"SA"`` the smallest (most negative first), ``"LM"`` the largest in magnitude.
        tol: relative tolerance on the residual.
        max_products: upper bound on products; the default is 200, or 20 for each pair when that is more.
        seed: of the starting vectors.
        progress: called with the products done and the bound on them.

    Returns:
        Pairs in the order asked for. Those with ``converged`` False are the best found within ``max_products``; their
        residuals say how far they may be off.

    Raises:
        TypeError: if the operator is none, or a number is not of its kind.
        ValueError: if k is not between 1 and the dimension, or an argument makes no sense.

    Source: Lanczos 1950; Parlett, The Symmetric Eigenvalue Problem, 1998.

    >>> import numpy as np
    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # X'X
    >>> np.round(top_eigenvalues(hessian, k=2).eigenvalues, 9).tolist()
    [9.0, 1.0]
    """
    require_operator(operator)
    k, tol, seed = integer(k, "k"), real(tol, "tol"), integer(seed, "seed")
    dim = operator.dim
    if not 1 <= k <= dim:
        raise ValueError(f"k must be between 1 and {dim}, the number of weights; got {k}")
    if which not in ("LA", "SA", "LM"):
        raise ValueError(f"which must be 'LA' (largest), 'SA' (smallest) or 'LM' (largest magnitude); got {which!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive; got {tol}")
    limit = max(200, 20 * k) if max_products is None else integer(max_products, "max_products")
    budget = min(dim, limit)
    if budget < k:
        raise ValueError(f"max_products must be at least k = {k}; got {max_products}")
    search = _Search(operator, k, which, tol, budget, torch.Generator().manual_seed(seed), progress)
    search.until_converged()
    while k > 1 and search.may_go_on:
        before = search.wanted()[0]
        search.look_elsewhere()
        search.until_converged()
        if search.unchanged(before):
            break
    values, coordinates, residuals = (part[..., :k] for part in search.wanted())
    settings = {"name": "top_eigenvalues", "k": k, "which": which, "tol": tol, "seed": seed}
    return Eigenpairs(
        eigenvalues=values.numpy(),
        eigenvectors=search.krylov.vectors(coordinates).cpu().numpy(),
        residuals=residuals.numpy(),
        converged=search.within_tolerance()[:k].numpy(),
        num_products=search.krylov.size,
        manifest=operator.manifest() | {"measurement": settings},
    )


class _Search:
    """A growing Krylov space and the k + 1 wanted Ritz pairs in it."""

    def __init__(
        self,
        operator: CurvatureOperator,
        k: int,
        which: Which,
        tol: float,
        budget: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        self.krylov = Krylov(operator.apply, operator.dim, generator=generator, like=operator.weights)
        self.count = min(k + 1, operator.dim)
        self.which = which
        self.tol = tol
        self.budget = budget
        self.progress = progress
        self.rounding = 100 * torch.finfo(operator.weights.dtype).eps
        self.krylov.start()

    @property
    def may_go_on(self) -> bool:
        return self.krylov.size < self.budget

    def wanted(self) -> tuple[Tensor, Tensor, Tensor]:
        values, coordinates, residuals = self.krylov.ritz()
        keys = {"LA": -values, "SA": values, "LM": -values.abs()}
        order = torch.argsort(keys[self.which], stable=True)[: self.count]
        return values[order], coordinates[:, order], residuals[order]

    def within_tolerance(self) -> Tensor:
        values, _, residuals = self.wanted()
        return residuals <= self.tol * values.abs() + self.rounding * self.krylov.scale

    def until_converged(self) -> None:
        while self.may_go_on and (self.krylov.size < self.count or not bool(self.within_tolerance().all())):
            self._step()

    def look_elsewhere(self) -> None:
        self.krylov.start()
        for _ in range(CONFIRMING_STEPS - 1):
            if self.may_go_on:
                self._step()

    def unchanged(self, before: Tensor) -> bool:
        values = self.wanted()[0]
        return bool(((values - before).abs() <= self.tol * before.abs() + self.rounding * self.krylov.scale).all())

    def _step(self) -> None:
        self.krylov.step()
        self.progress(self.krylov.size, self.budget)
