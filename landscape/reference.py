"""The same questions asked of PyHessian (Yao et al. 2020, arXiv 1912.07145): an independent second opinion.

PyHessian switches its model to evaluation mode, leaves gradients with graphs in ``.grad``, draws from the global random
state, fails on unused weights and weights batches by their rows. It is therefore given a module of its own with one
parameter, the flat w, whose output is L(w); nothing of that reaches the caller.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.answers import Eigenpairs, TraceEstimate
from landscape.arguments import integer, pairs_of, real, seed_of
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.operators import CurvatureOperator, HessianOperator


class _LossAsModel(nn.Module):
    """w ↦ L(w) as a module; counts the backward passes that reach w."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.w = nn.Parameter(objective.weights.clone())
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        del inputs
        tracked = self.w.clone()
        tracked.register_hook(self._count)  # type: ignore[no-untyped-call]
        return self.objective.differentiable_loss(tracked)

    def _count(self, gradient: Tensor) -> None:
        del gradient
        self.passes += 1


def pyhessian_eigenvalues(
    objective: Objective, k: int = 1, *, max_iterations: int = 100, tol: float = 1e-3, seed: int = 0
) -> Eigenpairs:
    """The k Hessian eigenvalues of largest magnitude, by PyHessian's power iteration with deflation, on the CPU.

    Args:
        objective: the loss; its graph over all the data is held in memory at once.
        k: number of eigenpairs.
        max_iterations: products for each pair at the most.
        tol: relative change between two iterations at which PyHessian stops; not a bound on the error.
        seed: of the starting vectors.

    Returns:
        PyHessian's values and vectors. The residuals are computed here; ``converged`` says whether they are within
        ``tol`` of the values, which PyHessian does not check. The manifest has the seconds that PyHessian took, without
        those for its graph, under ``machine``.

    Raises:
        ValueError: if the objective is not on the CPU, or k is not between 1 and the number of weights.
    """
    require_objective(objective)
    k, max_iterations = pairs_of(k, objective.space.dim), integer(max_iterations, "max_iterations", least=1)
    tol, seed = real(tol, "tol"), seed_of(seed)
    with _their_hessian(objective, seed) as (theirs, model):
        started = time.perf_counter()
        values, vectors = theirs.eigenvalues(max_iterations, tol, top_n=k)
        seconds = time.perf_counter() - started
    eigenvalues = np.array(values, dtype=np.float64)
    basis = torch.stack([vector[0].detach() for vector in vectors], dim=1)  # (dim, k)
    basis /= basis.norm(dim=0)
    product = objective.hvp(objective.weights, basis)
    residuals = (product - basis * torch.as_tensor(eigenvalues, device="cpu").to(basis)).norm(dim=0).double().numpy()
    settings = {"name": "pyhessian_eigenvalues", "k": k, "which": "LM", "tol": tol, "seed": seed}
    return Eigenpairs(
        eigenvalues=eigenvalues,
        eigenvectors=basis.numpy(),
        residuals=residuals,
        converged=residuals <= tol * np.abs(eigenvalues),
        num_products=model.passes - 1,  # the first pass was the gradient
        manifest=_manifest(objective, settings, seconds),
    )


def pyhessian_trace(
    objective: Objective, *, max_iterations: int = 100, tol: float = 1e-3, seed: int = 0
) -> TraceEstimate:
    """The Hessian trace by PyHessian's Hutchinson estimator, on the CPU.

    PyHessian stops when its running mean changes by less than ``tol`` from one probe to the next, which says little of
    its error, and at the second probe when the running mean is negative. The standard error is computed here, over the
    probes that it drew.

    Args:
        objective: the loss; its graph over all the data is held in memory at once.
        max_iterations: probes at the most, two or more.
        tol: relative change of the running mean at which PyHessian stops; not a bound on the error.
        seed: of the probes.

    Raises:
        ValueError: if the objective is not on the CPU, or there are fewer than two probes.
    """
    max_iterations, tol, seed = integer(max_iterations, "max_iterations"), real(tol, "tol"), seed_of(seed)
    if max_iterations < 2:
        raise ValueError(f"max_iterations must be at least 2, to give a standard error; got {max_iterations}")
    with _their_hessian(objective, seed) as (theirs, _):
        started = time.perf_counter()
        samples = np.array(theirs.trace(max_iterations, tol), dtype=np.float64)
        seconds = time.perf_counter() - started
    settings = {"name": "pyhessian_trace", "num_probes": len(samples), "tol": tol, "seed": seed}
    return TraceEstimate(
        estimate=float(samples.mean()),
        stderr=float(samples.std(ddof=1) / np.sqrt(len(samples))) if len(samples) > 1 else float("nan"),
        samples=samples,
        manifest=_manifest(objective, settings, seconds),
    )


@contextlib.contextmanager
def _their_hessian(objective: Objective, seed: int) -> Iterator[tuple[Any, _LossAsModel]]:
    """PyHessian's object, and the model that it was given; its graph is built before the block begins."""
    from pyhessian import hessian

    if objective.weights.device.type != "cpu":
        raise ValueError(f"PyHessian is asked on the CPU only; the objective is on {objective.weights.device}")
    model = _LossAsModel(objective)
    token = torch.zeros(1, device="cpu")
    try:
        with torch.random.fork_rng([]), torch.device("cpu"), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward")  # the cycle it warns of is broken below
            torch.default_generator.manual_seed(seed)  # the CPU's alone: PyHessian draws from no other
            yield hessian(model, lambda outputs, _: outputs, (token, token), None, False), model
    finally:
        model.w.grad = None  # breaks the cycle between the gradient and its graph


def _manifest(objective: Objective, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    manifest = objective.manifest()
    manifest["machine"] = manifest["machine"] | {"seconds": seconds}
    return manifest | {"operator": {"name": "HessianOperator"}, "measurement": settings}


def why_not_pyhessian(operator: CurvatureOperator) -> str:
    """Why PyHessian cannot be asked the same question; empty when it can be."""
    if type(operator) is not HessianOperator:
        return f"not asked: it knows the Hessian only, and this is a {type(operator).__name__}"
    if operator.objective.work.sharing.number > 1:
        return "not asked: it is run on one process only, and several share this work"
    if operator.weights.device.type != "cpu":
        return "not asked: it is run on the CPU only"
    if not torch.equal(operator.weights, operator.objective.weights):
        return "not asked: these are other weights than the objective's own"
    return ""
