"""Directions in weight space along which to look."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.objective import Objective


def random_direction(objective: Objective, *, seed: int) -> Tensor:
    """A standard normal vector, ``(dim,)``, the same on every device."""
    generator = torch.Generator().manual_seed(integer(seed, "seed"))
    return torch.randn(objective.space.dim, generator=generator, dtype=torch.float64).to(objective.weights)


def filter_normalized(objective: Objective, *, seed: int, orthogonal_to: Tensor | None = None) -> Tensor:
    """A random direction with d_f ← d_f ‖w_f‖ / ‖d_f‖ for every filter f (Li et al. 2018, arXiv 1712.09913).

    A filter is what makes one output: a row of a linear layer, a kernel of a convolution. Vectors (biases, the
    parameters of normalisation) are not moved.

    Args:
        objective: gives the weights.
        seed: of the normal vector.
        orthogonal_to: another direction ``(dim,)``; the result is orthogonal to it filter by filter. Filters with a
            single weight have no room for that and keep their component.

    Returns:
        A direction, ``(dim,)``.

    Raises:
        ValueError: if the seed gives the very direction to be orthogonal to.

    >>> model = torch.nn.Linear(4, 3)
    >>> data = [(torch.zeros(2, 4), torch.zeros(2, 3))]
    >>> d = filter_normalized(Objective(model, torch.nn.functional.mse_loss, data), seed=0)
    >>> torch.allclose(d[:12].view(3, 4).norm(dim=1), model.weight.norm(dim=1)), d[12:].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    space = objective.space
    direction = space.split(random_direction(objective, seed=seed))
    others = [None] * len(direction) if orthogonal_to is None else space.split(orthogonal_to.to(objective.weights))
    for block, weights, other in zip(direction, space.split(objective.weights), others, strict=True):
        if block.ndim < 2:
            block.zero_()
            continue
        rows = block.view(len(block), -1)  # (filters, weights of a filter), a view: written in place
        if other is not None and rows.shape[1] > 1:
            axes = torch.nn.functional.normalize(other.reshape(rows.shape), dim=1)
            if torch.nn.functional.cosine_similarity(rows, axes, dim=1).abs().min() > 0.9999:
                raise ValueError(f"seed {seed} gives the direction to be orthogonal to; choose another seed")
            rows -= axes * (rows * axes).sum(dim=1, keepdim=True)
        target = weights.reshape(rows.shape).norm(dim=1, keepdim=True)
        length = rows.norm(dim=1, keepdim=True)
        rows *= torch.where(length > 0, target / length, 0)
    return space.flatten(dict(zip(space.names, direction, strict=True)))
