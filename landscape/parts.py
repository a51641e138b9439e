"""The same question asked of every shard of the data, and the mean of the answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from landscape.arguments import integer
from landscape.objective import Objective
from landscape.precision import widest
from landscape.progress import Progress
from landscape.results import Array

NOTHING_TO_COUNT = "no shard has anything that the loss counts: all targets are ignored or have no weight"


@dataclass(frozen=True)
class Parts:
    """Answers of the shards that have anything to count.

    Attributes:
        values: ``(num_shards, questions)``.
        sizes: ``(num_shards,)``, examples in each.
        denominators: ``(num_shards,)``, what the loss of each is divided by, its weight in a mean.
    """

    values: Array
    sizes: Array
    denominators: Array


def over_shards(
    objective: Objective,
    size: int,
    ask: Callable[[int, Objective], Sequence[float]],
    *,
    questions: int,
    progress: Progress,
) -> Parts:
    """The answers of shards of consecutive examples, which processes that share the work divide among them.

    A shard of all the data is the objective itself, whose chunks they share.

    Args:
        objective: of all the data.
        size: examples per shard; the last has what is left.
        ask: (number of the shard, its objective) -> the answers.
        questions: how many answers there are.
        progress: called with the shards of this process that are done, and their number.

    Raises:
        TypeError: if the size is not an integer.
        ValueError: if the size is not between 1 and the number of examples, or if no shard has anything to count.
        ProcessLostError: if another process has died or failed.
    """
    size, sharing = integer(size, "the size of a shard"), objective.work.sharing
    alone = size == objective.num_examples or sharing.number == 1
    number = math.ceil(objective.num_examples / size) if size > 0 else 0
    mine = range(number) if alone else sharing.block(number)
    whole = size == objective.num_examples
    shards: Iterable[Objective] = iter([objective]) if whole else objective.shards(size)
    table = np.zeros((number, questions + 2))
    failure: Exception | None = None
    try:
        for done, shard in enumerate(itertools.islice(shards, mine.start, mine.stop)):
            place = mine.start + done
            if shard.weight != 0:
                table[place] = [shard.num_examples, shard.weight, *ask(place, shard)]
            progress(done + 1, len(mine))
    except Exception as error:
        if alone:
            raise
        failure = error
    if not alone:
        device = objective.weights.device
        found = torch.as_tensor(table, dtype=widest(device), device=device)
        (found,) = sharing.summed_unless_failed([found], failure)
        table = found.cpu().numpy()
    table = table[table[:, 1] != 0]
    if not len(table):
        raise ValueError(NOTHING_TO_COUNT)
    return Parts(values=table[:, 2:], sizes=table[:, 0].astype(int), denominators=table[:, 1])


def weighted_mean(values: Array, weights: Array) -> tuple[float, float]:
    """Mean and its standard error for independent values of equal variance per unit of weight."""
    share = weights / weights.sum()
    mean = float(share @ values)
    if len(values) < 2:
        return mean, float("nan")
    # Var(mean) = σ²/Σd where Var(value_i) = σ²/d_i; the estimate of σ² is unbiased for unequal weights too.
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that overflows leaves no standard error
        variance = float(weights @ (values - mean) ** 2) / (len(values) - 1)
    return mean, math.sqrt(variance / float(weights.sum()))
