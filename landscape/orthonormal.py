"""Orthonormal columns, whatever the columns are that they come from."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(count: int, *, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal columns, ``(dim, count)``, with the length, device and dtype of ``like``."""
    return torch.randn(count, len(like), generator=generator, dtype=torch.float64, device="cpu").T.to(like)


def orthonormal(columns: Tensor, basis: Tensor, *, generator: torch.Generator) -> Tensor:
    """An orthonormal basis of the columns, orthogonal to ``basis``.

    Where a column lies in the span of the others and of ``basis``, up to rounding, a random direction takes its place.

    Args:
        columns: ``(dim, k)``.
        basis: orthonormal, ``(dim, n)``, with n + k ≤ dim.
        generator: of the random directions, on the CPU.

    Returns:
        Orthonormal columns, ``(dim, k)``.

    >>> generator = torch.Generator().manual_seed(0)
    >>> basis = torch.eye(3)[:, :1]
    >>> orthonormal(torch.tensor([[5.0], [0.0], [2.0]]), basis, generator=generator).abs().round().flatten().tolist()
    [0.0, 0.0, 1.0]
    """
    size = torch.linalg.vector_norm(columns, dim=0).max()
    size = torch.where(size > 0, size, 1)
    columns = columns - basis @ (basis.T @ columns)
    # At the level of rounding: without effect where there is a direction, and a direction where there is none.
    noise = gaussian(columns.shape[1], like=columns, generator=generator)
    columns = columns + 10 * torch.finfo(columns.dtype).eps * size / len(columns) ** 0.5 * noise
    for _ in range(2):
        columns = columns / torch.linalg.vector_norm(columns, dim=0)
        columns = columns - basis @ (basis.T @ columns)
        columns = torch.linalg.qr(columns).Q
    return columns
