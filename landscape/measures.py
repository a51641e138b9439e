"""What is summed over probes: quadratic forms x'Mx of a symmetric A, for M a part of A, of its diagonal, or A²."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from landscape.precision import widest


class Pair(NamedTuple):
    """Columns x and their images A x, both ``(dim, k)``."""

    vectors: Tensor
    images: Tensor

    def through(self, coefficients: Tensor) -> Pair:
        """Linear combinations of the columns, ``(k, n)`` coefficients."""
        return Pair(*(part @ coefficients.to(part) for part in self))


# (x, y) -> for each column the symmetric bilinear forms, (forms, k), in float64 on the CPU.
Measure = Callable[[Pair, Pair], Tensor]


class BlocksOfTheTrace:
    """x_b'(A y)_b for each block b of rows, made symmetric: forms whose traces are those of A's diagonal blocks.

    Args:
        sizes: of the blocks.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)

    def __call__(self, x: Pair, y: Pair) -> Tensor:
        """The forms, a :data:`Measure`."""
        sums, wide = [], widest(x.vectors.device)
        ends = itertools.accumulate(self.sizes, initial=0)
        for first, last in itertools.pairwise(ends):
            rows = slice(first, last)
            one = (x.vectors[rows] * y.images[rows]).sum(dim=0, dtype=wide)
            two = one if y is x else (y.vectors[rows] * x.images[rows]).sum(dim=0, dtype=wide)
            sums.append((one + two) / 2)
        return torch.stack(sums).cpu().double()


def diagonal_entries(x: Pair, y: Pair) -> Tensor:
    """x ∘ A y, made symmetric, ``(dim, k)``: the forms whose traces are the entries of A's diagonal."""
    one = x.vectors * y.images
    return ((one + (one if y is x else y.vectors * x.images)) / 2).cpu().double()


def square(x: Pair, y: Pair) -> Tensor:
    """(A x)'(A y), ``(1, k)``: the form whose trace is ‖A‖_F²."""
    return (x.images * y.images).sum(dim=0, dtype=widest(x.images.device), keepdim=True).cpu().double()
