"""How much the loss rises when the weights are perturbed."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from landscape.answers import Sharpness
from landscape.arguments import integer
from landscape.objective import Objective
from landscape.parts import NOTHING_TO_COUNT, weighted_mean
from landscape.perturbations import Perturbation
from landscape.progress import Progress, silent


def m_sharpness(
    objective: Objective, perturbation: Perturbation, *, microbatch_size: int, progress: Progress = silent
) -> Sharpness:
    """Σ_i d_i/Σd [L_{S_i}(w + ε_i) − L_{S_i}(w)] over disjoint shards S_i of the data, ε_i found on S_i alone.

    d_i is what the mean over the shard is divided by: its examples for a plain mean, its tokens that are not ignored
    or their class weights where the loss counts those. A shard with nothing to count (d_i = 0) is left out.

    With :class:`GradientAscent` this is the m-sharpness of Foret et al. 2021 (arXiv 2010.01412) in its one-step
    approximation: a lower bound on the maximum over the ball, as is any other ε in it, of several steps or at random.
    Their m is ``microbatch_size``, in examples.

    Args:
        objective: the loss and the data; shards are consecutive examples.
        perturbation: finds ε, as in training; what is drawn at random is drawn anew for each shard.
        microbatch_size: examples per shard; the last shard has what is left.
        progress: called with the shards done and their number.

    Returns:
        Value, standard error over shards, and the rise of each shard, in units of the loss; with the examples and the
        denominator of each.

    Raises:
        TypeError: if the size is not an integer.
        ValueError: if the size is not between 1 and the number of examples, or if no shard has anything to count.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1
    >>> result = m_sharpness(objective, GradientAscent(rho=0.5), microbatch_size=2)
    >>> result.value, result.per_shard.tolist()
    (1.25, [1.25, 1.25])
    """
    microbatch_size = integer(microbatch_size, "the size of a shard")
    w, space = objective.weights, objective.space
    shards = objective.shards(microbatch_size)
    number = math.ceil(objective.num_examples / microbatch_size)
    rises, sizes, weights = [], [], []
    for done, shard in enumerate(shards, start=1):
        probed = _Probed(shard, w, with_gradient=perturbation.needs_gradient)
        if shard.weight != 0:
            epsilon = perturbation.search(space.split(w), probed.slopes, key=(done - 1,))
            rises.append(shard.loss(probed.at(epsilon)).item() - probed.loss.item())
            sizes.append(shard.num_examples)
            weights.append(shard.weight)
        progress(done, number)
    if not rises:
        raise ValueError(NOTHING_TO_COUNT)
    per_shard, shard_sizes, denominators = np.array(rises), np.array(sizes), np.array(weights)
    value, stderr = weighted_mean(per_shard, denominators)
    settings = {"name": "m_sharpness", "microbatch_size": microbatch_size, **perturbation.settings()}
    return Sharpness(
        value=value,
        stderr=stderr,
        per_shard=per_shard,
        shard_sizes=shard_sizes,
        denominators=denominators,
        microbatch_size=microbatch_size,
        manifest=objective.manifest() | {"measurement": settings, "shards": {"order": objective.order}},
    )


class _Probed:
    """A shard's loss at w, and its gradients there and near it, in blocks."""

    def __init__(self, shard: Objective, w: Tensor, *, with_gradient: bool) -> None:
        self.shard = shard
        self.w = w
        self.gradient: Tensor | None = None
        if with_gradient:
            self.loss, self.gradient = shard.loss_and_gradient(w)
        else:
            self.loss = shard.loss(w)

    def slopes(self, epsilon: list[Tensor] | None) -> list[Tensor]:
        """The gradient at w + ε."""
        if epsilon is None and self.gradient is not None:
            return self.shard.space.split(self.gradient)
        return self.shard.space.split(self.shard.gradient(self.w if epsilon is None else self.at(epsilon)))

    def at(self, epsilon: list[Tensor]) -> Tensor:
        """w + ε, ``(dim,)``."""
        space = self.shard.space
        return space.flatten(dict(zip(space.names, epsilon, strict=True))).add_(self.w)
