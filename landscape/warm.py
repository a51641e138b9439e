"""Where a search for eigenvectors starts: vectors that are known, or those of a part of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import num_examples, rows
from landscape.objective import Objective


@dataclass(frozen=True)
class FromSubset:
    """Start from the eigenvectors of a random part of the data, where products cost little.

    It saves products with all the data where these are many times more; what is found does not depend on it.

    Args:
        num_examples: of the part.

    Raises:
        TypeError: if the number is not an integer.
        ValueError: if it is not positive.
    """

    num_examples: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_examples", integer(self.num_examples, "num_examples"))
        if self.num_examples < 1:
            raise ValueError(f"num_examples must be at least 1; got {self.num_examples}")

    def part_of(self, objective: Objective, *, seed: int) -> Objective:
        """The objective of that many examples, drawn without replacement.

        Raises:
            ValueError: if there are no more examples than that.
        """
        if self.num_examples >= objective.num_examples:
            raise ValueError(
                f"a part of {self.num_examples} examples is no part of {objective.num_examples}; "
                "ask for fewer, or leave `initial` out"
            )
        drawn = torch.randperm(objective.num_examples, generator=torch.Generator().manual_seed(seed), device="cpu")
        chosen = drawn[: self.num_examples].sort().values
        batches, before = [], 0
        for batch in objective.batches:
            size = num_examples(batch)
            inside = chosen[(chosen >= before) & (chosen < before + size)] - before
            if len(inside):
                batches.append(rows(batch, inside))
            before += size
        return objective.part(batches)


def vectors(given: Any, like: Tensor) -> Tensor:
    """Starting vectors as a block ``(dim, j)`` on the device of the weights, in their precision.

    Raises:
        TypeError: if they are neither a tensor nor an array.
        ValueError: if their shape is wrong, or one is zero or not finite.
    """
    if not isinstance(given, Tensor | np.ndarray):
        kind = type(given).__name__
        raise TypeError(f"initial must be a tensor or an array of vectors, or FromSubset(); got {kind}")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "biufc":
        raise TypeError(f"initial must hold numbers; got an array of {given.dtype.name}. Use initial.astype(float)")
    block = (
        given.detach() if isinstance(given, Tensor) else torch.as_tensor(np.array(given), device="cpu")
    )  # a copy: results are frozen
    if block.ndim not in (1, 2) or block.shape[0] != like.numel() or block.numel() == 0 or block.is_complex():
        dim = like.numel()
        raise ValueError(
            f"initial must have shape ({dim},) or ({dim}, j), a row for each weight, and be real; "
            f"got {tuple(block.shape)} of {str(block.dtype).removeprefix('torch.')}"
        )
    block = block.reshape(like.numel(), -1).to(like)
    lengths = torch.linalg.vector_norm(block, dim=0)
    if not bool(torch.isfinite(lengths).all()) or not bool((lengths > 0).all()):
        wrong = int((~torch.isfinite(lengths) | (lengths <= 0)).nonzero()[0])
        raise ValueError(
            f"initial must hold finite vectors that are not zero; vector {wrong} has length {lengths[wrong]}"
        )
    return block
