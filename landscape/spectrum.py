"""The ends of a spectrum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.answers import Eigenpairs
from landscape.arguments import integer, pairs_of, real, seed_of
from landscape.clock import Clock
from landscape.ends import WORDS, Ends, Which
from landscape.manifest import hash_of_tensor
from landscape.operators import CurvatureOperator, require_operator
from landscape.processes import attempted
from landscape.progress import Progress, silent
from landscape.search import ROOM, Budget, Pairs, Search
from landscape.warm import FromSubset, vectors

ROUGH = 0.1  # tolerance of eigenvectors that are a start only
LATE = 10.0  # seconds that k products may take beyond those that there are; or as long as these, if that is more


def top_eigenvalues(
    operator: CurvatureOperator,
    k: int = 1,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    chance: float = 1e-3,
    max_products: int | None = None,
    max_seconds: float | None = None,
    initial: Tensor | np.ndarray[Any, Any] | FromSubset | None = None,
    max_basis: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Eigenpairs:
    """The k extreme eigenvalues and eigenvectors, by Lanczos with full reorthogonalisation and thick restarts.

    A pair (θ, v) is converged when its residual ‖H v − θ v‖₂ is at most ``tol`` · |θ| (or rounding); some eigenvalue
    of H then lies within the residual of θ. The search goes on until the k + 1 wanted pairs are converged. For k > 1
    a chain from a fresh random vector then looks for what the first could not see, the copies of multiple eigenvalues,
    until one that would change the answer could have stayed hidden with the probability ``chance`` at the most; the
    search goes on for as long as it finds any.

    Args:
        operator: the symmetric matrix.
        k: number of pairs.
        which: ``"LA"`` the largest, ``"SA"`` the smallest (most negative first), ``"LM"`` the largest in magnitude,
            ``"BE"`` half from each end, in descending order, one more from the upper end where k is odd.
        tol: relative tolerance on the residual.
        chance: the probability with which an eigenvalue may be missed, see docs/methods.md; 1 looks for none that could
            be, as other packages do, for a third fewer products.
        max_products: upper bound on products; the default is 200, or 20 for each pair when that is more.
        max_seconds: after which the search stops with what it has; k products are taken in any case, unless the second
            shows that they take far longer. Of processes that share the work the first one's clock counts.
        initial: vectors to start near, ``(dim,)`` or ``(dim, j)``, such as the eigenvectors at a neighbouring
            checkpoint, or ``FromSubset()``. They save products; a random vector is added, so that what they lack is
            found all the same.
        max_basis: vectors that are held at once; memory is 2 · ``max_basis`` · dim numbers. It grows as it
            is needed; the default bound is 2k + 60.
        seed: of the random vectors.
        progress: called with the products done and the bound on them.

    Returns:
        Pairs in the order asked for. ``stopped`` says why the search ended; pairs with ``converged`` False are the best
        found by then, and their residuals say how far they may be off.

    Raises:
        TypeError: if the operator is none, or an argument is not of its kind.
        ValueError: if k is not between 1 and the dimension, an argument makes no sense, or k products take more than
            twice ``max_seconds`` and 10 s more than that.

    Source: Lanczos 1950; Parlett, The Symmetric Eigenvalue Problem, 1998; thick restarts: Wu and Simon 2000.

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
    dim = operator.dim
    k, tol, seed = pairs_of(k, dim), real(tol, "tol"), seed_of(seed)
    if which not in ("LA", "SA", "LM", "BE"):
        raise ValueError(f"which must be {WORDS}; got {which!r}")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be positive and finite; got {tol}")
    chance = real(chance, "chance")
    if not 0 < chance <= 1:
        raise ValueError(f"chance must be above 0 and at most 1, a probability; got {chance}")
    limit = max(200, 20 * k) if max_products is None else integer(max_products, "max_products")
    if limit < k:
        raise ValueError(f"max_products must be at least k = {k}; got {max_products}")
    seconds = math.inf if max_seconds is None else real(max_seconds, "max_seconds")
    if not seconds > 0:
        raise ValueError(f"max_seconds must be positive; got {max_seconds}")
    least = k + 2 + ROOM
    basis = 2 * k + 60 if max_basis is None else integer(max_basis, "max_basis")
    if basis < min(least, dim):
        raise ValueError(f"max_basis must be at least {min(least, dim)} for k = {k}; got {max_basis}")
    settings: dict[str, Any] = {"name": "top_eigenvalues", "k": k, "which": which, "tol": tol, "seed": seed}
    if chance != 1e-3:
        settings["chance"] = chance
    ends, total = Ends(which, k), min(dim, limit)
    work = operator.objective.work
    clock = Clock(work.sharing, like=operator.weights, limit=seconds)

    def search(matrix: CurvatureOperator, tol: float, chance: float, report: Progress) -> Search:
        budget = Budget(limit, clock)
        began: list[float] = []

        def done(products: int) -> None:
            report(min(products, total), total)
            if products <= 2 and clock.limit < math.inf:
                began.append(clock.seconds)
                if products == 2:
                    _require_time(k, began[-1] - began[0], seconds)

        return Search(matrix, ends, tol=tol, budget=budget, chance=chance, max_basis=basis, seed=seed, report=done)

    given: Tensor | None = None
    if isinstance(initial, FromSubset):
        settings["initial"] = {"name": "FromSubset", "num_examples": initial.num_examples}
    elif initial is not None:
        given = vectors(initial, operator.weights)
        settings["initial"] = {"vectors": hash_of_tensor(given)}

    def start() -> tuple[Tensor | None, int]:
        """Where to begin, and products with a part of the data; nothing else of that search stays in memory."""
        if not isinstance(initial, FromSubset):
            return given, 0
        small = search(operator.over(initial.part_of(operator.objective, seed=seed)), ROUGH, 1.0, silent)
        rough = small.run(None)
        return small.space.vectors(rough.coordinates), small.space.num_products

    def searched() -> tuple[Search, Pairs, Tensor, int]:
        block, cheap = start()
        full = search(operator, tol, chance, progress)
        found = full.run(block)
        work.require_end(found.values)
        return full, found, work.sharing.led(full.space.vectors(found.coordinates)), cheap

    full, found, eigenvectors, cheap = attempted(work.sharing, searched)
    return Eigenpairs(
        eigenvalues=found.values.numpy(),
        eigenvectors=(eigenvectors / torch.linalg.vector_norm(eigenvectors, dim=0)).cpu().numpy(),
        residuals=found.residuals.numpy(),
        converged=found.converged.numpy(),
        num_products=full.space.num_products,
        num_subset_products=cheap,
        stopped=full.stopped,
        manifest=operator.manifest() | {"measurement": settings},
    )


def _require_time(k: int, each: float, seconds: float) -> None:
    """As many products as there are pairs must not take far longer than there is time."""
    if k * each > seconds + max(seconds, LATE):
        fit = int((seconds + max(seconds, LATE)) / each)
        fewer = f", or ask for {fit} at the most" if fit else ""
        raise ValueError(
            f"{k} eigenvalues take {k} products at least, about {k * each:.3g} s at {each:.2g} s for each, and "
            f"there are {seconds:.3g} s for them. Give more time{fewer}."
        )
