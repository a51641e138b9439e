"""How much the loss rises when the weights are perturbed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landscape.answers import Sharpness
from landscape.arguments import entries, integer
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.parts import NOTHING_TO_COUNT, weighted_mean
from landscape.perturbations import Perturbation, at_radius, require_perturbation
from landscape.progress import Progress, silent
from landscape.rises import Measurement


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
        TypeError: if the size is not an integer, or the perturbation is none.
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
    ((result,),) = _measured(objective, [perturbation], [microbatch_size], progress)
    return result


def m_sharpness_grid(
    objective: Objective,
    perturbation: Perturbation,
    *,
    microbatch_sizes: Sequence[int],
    radii: Sequence[float] | None = None,
    progress: Progress = silent,
) -> tuple[tuple[Sharpness, ...], ...]:
    """:func:`m_sharpness` for several sizes of shards and radii in one call, which shares what they have in common.

    Where shards go layer by layer, one gradient of all the data serves all sizes and radii, and each of them costs
    another evaluation of the loss; elsewhere the gradient of a shard serves all radii.

    Args:
        objective: the loss and the data; shards are consecutive examples.
        perturbation: finds ε, as in training; a copy of it is given each radius.
        microbatch_sizes: examples per shard.
        radii: values of ``perturbation.rho``; its own alone when left out.
        progress: called with the shards done and their number, over all sizes; under several processes its own.

    Returns:
        For each size, in the order given, the results for each radius.

    Raises:
        TypeError: if a size is not an integer, or radii are given to a perturbation without one.
        ValueError: if a size is not between 1 and the number of examples, a radius is negative or not finite, a size or
            radius is given twice, there is none, or no shard has anything to count.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)  # w², at w = 1
    >>> found = m_sharpness_grid(objective, GradientAscent(rho=0.5), microbatch_sizes=[1, 3], radii=[0.0, 0.5, 1.0])
    >>> [[result.value for result in of_size] for of_size in found]
    [[0.0, 1.25, 3.0], [0.0, 1.25, 3.0]]
    """
    sizes = require_sizes(microbatch_sizes)
    perturbations = [perturbation]
    if radii is not None:
        rhos = entries(radii, "radii")
        _require_different(rhos, "radii")
        perturbations = [at_radius(perturbation, rho) for rho in rhos]
    return _measured(objective, perturbations, sizes, progress)


def require_sizes(microbatch_sizes: Sequence[int]) -> list[int]:
    """Sizes of shards, in the order given.

    Raises:
        TypeError: if one is no integer.
        ValueError: if there is none, or one twice, or one below 1.
    """
    sizes = [integer(size, "the size of a shard", least=1) for size in entries(microbatch_sizes, "microbatch_sizes")]
    _require_different(sizes, "microbatch_sizes")
    return sizes


def _measured(
    objective: Objective, perturbations: Sequence[Perturbation], sizes: Sequence[int], progress: Progress
) -> tuple[tuple[Sharpness, ...], ...]:
    require_objective(objective)
    for perturbation in perturbations:
        require_perturbation(perturbation)
    for size in sizes:
        objective.shards(size)  # refuses what is no size
    measurement = Measurement(objective, perturbations, sizes, progress)
    measurement.run()
    manifest = objective.manifest() | {"shards": {"order": objective.order}}
    manifest["machine"] = manifest["machine"] | {"shards": measurement.account()}
    found = []
    for size in sizes:
        weights = measurement.weights[size]
        counted = weights != 0
        if not counted.any():
            raise ValueError(NOTHING_TO_COUNT)
        shard_sizes = np.full(len(weights), size)
        shard_sizes[-1] = objective.num_examples - (len(weights) - 1) * size
        of_size = []
        for index, perturbation in enumerate(perturbations):
            per_shard = measurement.rises[size][counted, index]
            value, stderr = weighted_mean(per_shard, weights[counted])
            settings = {"name": "m_sharpness", "microbatch_size": size, **perturbation.settings()}
            of_size.append(
                Sharpness(
                    value=value,
                    stderr=stderr,
                    per_shard=per_shard,
                    shard_sizes=shard_sizes[counted],
                    denominators=weights[counted],
                    microbatch_size=size,
                    manifest=manifest | {"measurement": settings},
                )
            )
        found.append(tuple(of_size))
    return tuple(found)


def _require_different(values: Sequence[float], name: str) -> None:
    if not values:
        raise ValueError(f"{name} is empty; give one value at least")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} has a value twice; got {list(values)}")
