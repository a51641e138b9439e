"""The trace of an operator, and of each of its diagonal blocks, from products alone."""

from __future__ import annotations

import numpy as np

from landscape.answers import TraceEstimate
from landscape.estimators import Estimator, KrylovAware
from landscape.measures import BlocksOfTheTrace
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent
from landscape.rounds import estimated

KRYLOV_AWARE = KrylovAware()


def trace(
    operator: CurvatureOperator,
    num_probes: int = 100,
    *,
    estimator: Estimator = KRYLOV_AWARE,
    rtol: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> TraceEstimate:
    """tr H with its standard error, and tr H_bb for each named block of weights from the same products.

    Every estimator averages quadratic forms u'Hu = Σ_b u_b'(Hu)_b, and the terms of a block estimate its trace without
    bias: their estimates add up to that of tr H. A budget of ``dim`` products or more gives the exact trace.

    Args:
        operator: the symmetric matrix, definite or not.
        num_probes: products at the most, whatever the estimator.
        estimator: ``KrylovAware()``, ``XTrace()``, ``HutchPlusPlus()``, or ``Hutchinson()``, which needs no memory;
            ``PerExample()``, which is precise where examples are many; or ``ExactGaussNewton()`` for classifiers of few
            classes.
        rtol: stop when the standard error is at most rtol · |estimate|, with a confidence of 95 %; looked at after 12,
            24, 48, ... products.
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
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(9, 1)
    >>> trace(hessian, num_probes=2).estimate
    10.0
    """
    require_operator(operator)
    space = operator.objective.space
    named = sum(space.sizes) == operator.dim
    names, sizes = (space.names, space.sizes) if named else (("all",), [operator.dim])
    found = estimated(
        operator,
        BlocksOfTheTrace(sizes),
        estimator=estimator,
        num_probes=num_probes,
        rtol=rtol,
        max_seconds=max_seconds,
        seed=seed,
        progress=progress,
    )
    return TraceEstimate(
        estimate=float(found.samples.mean()),
        stderr=found.stderr,
        samples=found.samples,
        estimator=found.estimator,
        num_products=found.num_products,
        stopped=found.stopped,
        blocks=np.array(names),
        block_estimates=found.values,
        block_stderrs=found.stderrs,
        manifest=found.manifest(operator, "trace"),
    )
