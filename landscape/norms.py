"""The Frobenius norm of an operator, from products alone."""

from __future__ import annotations

import math

from landscape.answers import NormEstimate
from landscape.estimators import Estimator
from landscape.measures import square
from landscape.operators import CurvatureOperator
from landscape.progress import Progress, silent
from landscape.rounds import estimated
from landscape.traces import KRYLOV_AWARE


def frobenius_norm(
    operator: CurvatureOperator,
    num_probes: int = 100,
    *,
    estimator: Estimator = KRYLOV_AWARE,
    rtol: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> NormEstimate:
    """‖H‖_F = √tr H² = √(Σ λ_i²), with a standard error.

    tr H² = E‖Hz‖² takes one product for each probe, and the same for what an estimator leaves of H; the standard error
    of the root is that of the square over 2‖H‖_F.

    Args:
        operator: the symmetric matrix.
        num_probes: products at the most; with ``dim`` of them the norm is exact.
        estimator: as for :func:`landscape.trace`.
        rtol: stop when the standard error of the square is at most rtol times it, with a confidence of 95 %.
        max_seconds: stop rather than go on for longer, with what there is.
        seed: of the probes.
        progress: called with the products done and their number.

    Raises:
        TypeError: if the operator is none, or an argument is of another kind.
        ValueError: if there are too few products to leave a standard error, or a limit is not positive.

    >>> import torch
    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> root = torch.tensor([4.0, 3.0]).double().sqrt().diag()
    >>> data = [(root, torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(4, 3)
    >>> round(frobenius_norm(hessian, num_probes=2).estimate, 9)
    5.0
    """
    found = estimated(
        operator,
        square,
        estimator=estimator,
        num_probes=num_probes,
        rtol=rtol,
        max_seconds=max_seconds,
        seed=seed,
        progress=progress,
    )
    norm = math.sqrt(max(0.0, float(found.samples.mean())))
    return NormEstimate(
        estimate=norm,
        stderr=found.stderr / (2 * norm) if norm > 0 else math.sqrt(found.stderr),
        samples=found.samples,
        num_products=found.num_products,
        stopped=found.stopped,
        manifest=found.manifest(operator, "frobenius_norm"),
    )
