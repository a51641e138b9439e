"""The same questions asked of PyHessian (Yao et al. 2020, arXiv 1912.07145): an independent second opinion.

PyHessian switches its model to evaluation mode, leaves gradients with graphs in ``.grad``, draws from the global random
state, fails on unused weights and weights batches by their rows. It is therefore given a module of its own with one
parameter, the flat w, whose output is L(w); nothing of that reaches the caller.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from landscape.answers import Eigenpairs
from landscape.arguments import integer, real
from landscape.objective import Objective


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
        ``tol`` of the values, which PyHessian does not check.

    Raises:
        ValueError: if the objective is not on the CPU.
    """
    from pyhessian import hessian

    if objective.weights.device.type != "cpu":
        raise ValueError(f"PyHessian is asked on the CPU only; the objective is on {objective.weights.device}")
    k, max_iterations = integer(k, "k"), integer(max_iterations, "max_iterations")
    tol, seed = real(tol, "tol"), integer(seed, "seed")
    model = _LossAsModel(objective)
    token = torch.zeros(1)
    with torch.random.fork_rng([]), torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward")  # the cycle it warns of is broken below
        torch.default_generator.manual_seed(seed)  # the CPU's alone: PyHessian draws from no other
        theirs = hessian(model, lambda outputs, _: outputs, (token, token), None, False)
        values, vectors = theirs.eigenvalues(max_iterations, tol, top_n=k)
    model.w.grad = None  # breaks the cycle between the gradient and its graph
    eigenvalues = np.array(values, dtype=np.float64)
    basis = torch.stack([vector[0].detach() for vector in vectors], dim=1)  # (dim, k)
    basis /= basis.norm(dim=0)
    product = objective.hvp(objective.weights, basis)
    residuals = (product - basis * torch.as_tensor(eigenvalues).to(basis)).norm(dim=0).double().numpy()
    settings = {"name": "pyhessian_eigenvalues", "k": k, "which": "LM", "tol": tol, "seed": seed}
    return Eigenpairs(
        eigenvalues=eigenvalues,
        eigenvectors=basis.numpy(),
        residuals=residuals,
        converged=residuals <= tol * np.abs(eigenvalues),
        num_products=model.passes - 1,  # the first pass was the gradient
        manifest=objective.manifest() | {"operator": {"name": "HessianOperator"}, "measurement": settings},
    )
