"""Directions in weight space along which to look."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from landscape.arguments import integer
from landscape.objective import Objective


def random_direction(objective: Objective, *, seed: int) -> Tensor:
    """A standard normal vector, ``(dim,)``, the same on every device."""
    generator = torch.Generator().manual_seed(integer(seed, "seed"))
    return torch.randn(objective.space.dim, generator=generator, dtype=torch.float64).to(objective.weights)


def filter_normalized(objective: Objective, *, seed: int, orthogonal_to: Tensor | None = None) -> Tensor:
    """A random direction with d_f ← d_f ‖w_f‖ / ‖d_f‖ for every filter f (Li et al. 2018, arXiv 1712.09913).

    A filter is what makes one output: a row of a linear layer, a kernel of a convolution, and of a transposed one, in
    each of its groups. Vectors (biases, the parameters of normalisation) are not moved.

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
    space, groups = objective.space, _groups_of_transposed(objective)
    direction = space.split(random_direction(objective, seed=seed))
    others = [None] * len(direction) if orthogonal_to is None else space.split(orthogonal_to.to(objective.weights))
    for name, block, weights, other in zip(space.names, direction, space.split(objective.weights), others, strict=True):
        if block.ndim < 2 or not block.numel():
            block.zero_()
            continue
        rows = _filters(block, groups.get(name)).clone()  # (filters, weights of a filter)
        if other is not None and rows.shape[1] > 1:
            axes = torch.nn.functional.normalize(_filters(other, groups.get(name)), dim=1)
            if torch.nn.functional.cosine_similarity(rows, axes, dim=1).abs().min() > 0.9999:
                raise ValueError(f"seed {seed} gives the direction to be orthogonal to; choose another seed")
            rows -= axes * (rows * axes).sum(dim=1, keepdim=True)
        target = _filters(weights, groups.get(name)).norm(dim=1, keepdim=True)
        length = rows.norm(dim=1, keepdim=True)
        rows *= torch.where(length > 0, target / length, 0)
        by_output = _by_output(block, groups.get(name))
        by_output.copy_(rows.view(by_output.shape))
    return space.flatten(dict(zip(space.names, direction, strict=True)))


def _filters(block: Tensor, groups: int | None) -> Tensor:
    """One row per filter."""
    by_output = _by_output(block, groups)
    return by_output.reshape(math.prod(by_output.shape[: 1 if groups is None else 2]), -1)


def _by_output(block: Tensor, groups: int | None) -> Tensor:
    """A view with the outputs first; a transposed convolution has (inputs, outputs per group, ...) instead."""
    return block if groups is None else block.view(groups, -1, *block.shape[1:]).transpose(1, 2)


def _groups_of_transposed(objective: Objective) -> dict[str, int]:
    """The number of groups of each transposed convolution, by the names of its weight, parametrized or not."""
    found = {}
    for path, layer in objective.model.named_modules():
        if isinstance(layer, _ConvTransposeNd):
            start = f"{path}." if path else ""
            for name, block in layer.named_parameters(prefix=path):
                if "weight" in name.removeprefix(start) and block.shape[1:2] == (layer.out_channels // layer.groups,):
                    found[name] = layer.groups
    return found
