"""The trace of an operator, from products alone."""

from __future__ import annotations

import numpy as np
import torch

from landscape.answers import TraceEstimate
from landscape.arguments import integer
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent

BLOCK = 10  # probes that share one gradient graph


def trace(
    operator: CurvatureOperator, num_probes: int = 100, *, seed: int = 0, progress: Progress = silent
) -> TraceEstimate:
    """tr H = E[z'Hz] over random signs z, with the standard error of the mean over probes (Hutchinson 1990).

    Args:
        operator: the symmetric matrix.
        num_probes: number of products, two or more.
        seed: of the probes.
        progress: called with the probes done and their number.

    Raises:
        TypeError: if the operator is none, or a number is not an integer.
        ValueError: if there are fewer than two probes, which leave no standard error.

    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(9, 1)
    >>> trace(hessian, num_probes=2).estimate
    10.0
    """
    require_operator(operator)
    num_probes, seed = integer(num_probes, "num_probes"), integer(seed, "seed")
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2, to give a standard error; got {num_probes}")
    generator = torch.Generator().manual_seed(seed)
    samples: list[float] = []
    while len(samples) < num_probes:
        count = min(BLOCK, num_probes - len(samples))
        signs = torch.randint(0, 2, (count, operator.dim), generator=generator)
        probes = (2 * signs - 1).to(operator.weights).T  # (dim, count)
        samples += (probes * operator.apply(probes)).sum(dim=0).tolist()
        progress(len(samples), num_probes)
    values = np.array(samples)
    return TraceEstimate(
        estimate=float(values.mean()),
        stderr=float(values.std(ddof=1) / np.sqrt(len(values))),
        samples=values,
        manifest=operator.manifest()
        | {"measurement": {"name": "trace", "estimator": "Hutchinson", "num_probes": num_probes, "seed": seed}},
    )
