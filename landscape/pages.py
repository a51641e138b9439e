"""Vectors that are added one by one, in pages: what is there is not copied when more come."""

from __future__ import annotations

import torch
from torch import Tensor

PAGE = 16  # vectors
SLICES = 16  # of each row, that are combined one after another


class Pages:
    """The rows of a matrix Q', ``(size, dim)``. Memory: ``size`` vectors, rounded up to whole pages below ``most``.

    Args:
        like: a vector ``(dim,)`` with the device and dtype to hold them in.
        most: rows that there may be.

    >>> pages = Pages(torch.zeros(2), most=3)
    >>> pages.append(torch.tensor([1.0, 2.0]))
    >>> pages.append(torch.tensor([0.0, 1.0]))
    >>> pages.times(torch.tensor([1.0, 1.0])).tolist(), pages.combined(torch.tensor([1.0, 3.0])).tolist()
    ([3.0, 1.0], [1.0, 5.0])
    """

    def __init__(self, like: Tensor, *, most: int) -> None:
        self._like, self._most = like, most
        self._pages: list[Tensor] = []
        self.size = 0

    def append(self, vector: Tensor) -> None:
        """One more, ``(dim,)``.

        Raises:
            RuntimeError: if there may be no more.
        """
        if self.size == self._most:
            raise RuntimeError(f"the basis holds {self._most} vectors, all that it may; compress it first")
        page, row = divmod(self.size, PAGE)
        if page == len(self._pages):
            self._pages.append(self._like.new_empty(min(PAGE, self._most - self.size), self._like.numel()))
        self._pages[page][row] = vector
        self.size += 1

    def times(self, v: Tensor) -> Tensor:
        """Q'v, ``(size,)`` or ``(size, k)``."""
        parts = [page @ v for page in self._filled()]
        return torch.cat(parts) if parts else v.new_empty(0, *v.shape[1:])

    def combined(self, y: Tensor) -> Tensor:
        """Q y for coefficients y, ``(size,)`` or ``(size, k)``: a tensor ``(dim,)`` or ``(dim, k)``."""
        found = self._like.new_zeros(self._like.numel(), *y.shape[1:])
        for page, part in zip(self._filled(), torch.split(y, PAGE), strict=False):
            found = found.addmv_(page.T, part) if y.ndim == 1 else found.addmm_(page.T, part)
        return found

    def compress(self, y: Tensor) -> None:
        """Q becomes Q y for coefficients y, ``(size, k)`` with k ≤ size; a part of each row at a time."""
        step = -(-self._like.numel() // SLICES)
        for first in range(0, self._like.numel(), step):
            columns = slice(first, first + step)
            rows = y.T @ torch.cat([page[:, columns] for page in self._filled()])
            for page, part in zip(self._pages, torch.split(rows, PAGE), strict=False):
                page[: len(part), columns] = part
        self.size = y.shape[1]

    def _filled(self) -> list[Tensor]:
        whole, rest = divmod(self.size, PAGE)
        return [*self._pages[:whole], *([self._pages[whole][:rest]] if rest else [])]
