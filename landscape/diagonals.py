"""The diagonal of an operator, from products alone."""

from __future__ import annotations

from landscape.answers import DiagonalEstimate
from landscape.estimators import Estimator, Hutchinson
from landscape.measures import diagonal_entries
from landscape.operators import CurvatureOperator
from landscape.progress import Progress, silent
from landscape.rounds import estimated

HUTCHINSON = Hutchinson()


def diagonal(
    operator: CurvatureOperator,
    num_probes: int = 100,
    *,
    estimator: Estimator = HUTCHINSON,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> DiagonalEstimate:
    """diag H = E[z ∘ Hz] over random signs z, with a standard error for each entry.

    The variance of an entry is Σ_{j≠i} H_ij² / n. The other estimators take the part of H in their basis exactly, and
    serve where few eigenvalues dominate. Keeps one number of each entry for each product.

    Args:
        operator: the symmetric matrix.
        num_probes: products at the most; with ``dim`` of them the diagonal is exact.
        estimator: ``Hutchinson()``, ``KrylovAware()``, ``HutchPlusPlus()`` or ``XTrace()``.
        max_seconds: stop rather than go on for longer, with what there is.
        seed: of the probes.
        progress: called with the products done and their number.

    Raises:
        TypeError: if the operator is none, or an argument is of another kind.
        ValueError: if there are too few products to leave a standard error.

    Source: Bekas, Kokiopoulou and Saad 2007.

    >>> import torch
    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(9, 1)
    >>> diagonal(hessian, num_probes=2).estimates.tolist()
    [9.0, 1.0]
    """
    found = estimated(
        operator,
        diagonal_entries,
        estimator=estimator,
        num_probes=num_probes,
        rtol=None,
        max_seconds=max_seconds,
        seed=seed,
        progress=progress,
    )
    return DiagonalEstimate(
        estimates=found.values,
        stderrs=found.stderrs,
        num_products=found.num_products,
        stopped=found.stopped,
        manifest=found.manifest(operator, "diagonal"),
    )
