"""The Fisher-Rao norm of the weights."""

from __future__ import annotations

from landscape.answers import FisherRaoNorm
from landscape.objective import Objective
from landscape.operators import CurvatureOperator, require_operator
from landscape.parts import over_shards, weighted_mean
from landscape.progress import Progress, silent


def fisher_rao_norm(
    operator: CurvatureOperator, *, microbatch_size: int = 128, progress: Progress = silent
) -> FisherRaoNorm:
    """w'F w, the square of the Fisher-Rao norm, with a standard error over shards of the data.

    For the cross-entropy the Gauss-Newton matrix is the Fisher matrix of the model, with targets drawn from it; with
    ``EmpiricalFisherOperator`` the targets are those of the data. A ReLU network of l layers without biases has
    J w = l f(x), so that w'Gw = l² E f'(∂²loss/∂f²)f: neither changes when it is rescaled into another network that
    computes the same function. Source: Liang, Poggio, Rakhlin and Stokes 2019 (arXiv 1711.01530).

    Args:
        operator: F at the weights: ``GGNOperator(objective)`` or ``EmpiricalFisherOperator(objective)``.
        microbatch_size: examples per shard, which decides nothing but the standard error.
        progress: called with the shards done and their number.

    Returns:
        The value over all the data, standard error over shards, and the value of each shard; in units of the loss.

    Raises:
        TypeError: if the operator is none, or the size is not an integer.
        ValueError: if the size is not between 1 and the number of examples, or no shard has anything to count.

    >>> import torch
    >>> from landscape.operators import GGNOperator
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.tensor([[1.0], [2.0]]).double(), torch.zeros(2, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> fisher_rao_norm(GGNOperator(objective), microbatch_size=1).per_shard.tolist()  # 2 (x w)²
    [2.0, 8.0]
    """
    require_operator(operator)
    w, objective = operator.weights, operator.objective

    def ask(number: int, shard: Objective) -> list[float]:
        del number
        return [float((w * operator.over(shard).apply(w)).sum(dtype=w.dtype))]

    found = over_shards(objective, microbatch_size, ask, questions=1, progress=progress)
    value, stderr = weighted_mean(found.values[:, 0], found.denominators)
    settings = {"name": "fisher_rao_norm", "microbatch_size": int(microbatch_size)}
    shards = {"order": objective.order}
    return FisherRaoNorm(
        value=value,
        stderr=stderr,
        per_shard=found.values[:, 0],
        shard_sizes=found.sizes,
        denominators=found.denominators,
        microbatch_size=int(microbatch_size),
        operator=operator.settings()["name"],
        manifest=operator.manifest() | {"measurement": settings, "shards": shards},
    )
