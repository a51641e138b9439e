"""Krylov subspaces of a symmetric operator, with full reorthogonalisation, the basis on the operator's device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class Krylov:
    """An orthonormal basis Q grown by products with a symmetric A, and the projection T = Q'AQ.

    The basis grows along a chain: each step multiplies the newest vector by A and appends what is orthogonal to all
    vectors so far. A chain may be followed by another one that starts from a new vector; what the ended chain would
    have appended is kept, so that residuals stay exact: A Q = Q (T + N) + Σ_c f_c e_c', one term per chain c. N is what
    the products lack in symmetry: T is taken from the newest column, and N says how far the older ones differ.

    Args:
        product: v ↦ A v for one vector ``(dim,)``.
        dim: dimension of A.
        generator: source of the starting vectors, on the CPU.
        like: a tensor with the device and dtype to work in.
    """

    def __init__(self, product: Product, dim: int, *, generator: torch.Generator, like: Tensor) -> None:
        self._product = product
        self._dim = dim
        self._generator = generator
        self._like = like
        self._basis = torch.empty(0, dim, dtype=like.dtype, device=like.device)  # (capacity, dim), one row a vector
        self.size = 0
        self._projection = torch.zeros(0, 0, dtype=torch.float64)  # T, (size, size) on the CPU
        self._asymmetry = torch.zeros(0, 0, dtype=torch.float64)  # N, zero up to rounding for a symmetric A
        self._ends: list[tuple[int, Tensor]] = []  # (index of the chain's last vector, what it leaves over)
        self.scale = 0.0  # largest ‖A q‖ seen, a lower bound on ‖A‖

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.size == self._dim

    @property
    def exhausted(self) -> bool:
        """Whether the current chain has found an invariant subspace, so that only a new start can go on."""
        return not self._ends or self._negligible(float(torch.linalg.vector_norm(self._ends[-1][1])))

    def start(self) -> None:
        """Begin a chain at a random vector orthogonal to the basis, and take its first step."""
        for _ in range(5):
            vector = torch.randn(self._dim, generator=self._generator, dtype=torch.float64).to(self._like)
            vector = self._orthogonalised(vector / torch.linalg.vector_norm(vector))
            length = torch.linalg.vector_norm(vector)
            if length > math.sqrt(torch.finfo(self._like.dtype).eps):
                self._append(self._orthogonalised(vector / length), new_chain=True)
                return
        raise RuntimeError("no direction is left outside the basis")

    def step(self) -> None:
        """One product with A. Starts a new chain where the current one is exhausted."""
        if self.exhausted:
            self.start()
        else:
            leftover = self._ends[-1][1]
            self._append(leftover / torch.linalg.vector_norm(leftover), new_chain=False)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues of T in ascending order, their coordinates and residuals: (size,), (size, size), (size,).

        The residual of a pair is ‖A Q y − θ Q y‖₂, and bounds the distance of θ to an eigenvalue of A.
        """
        values, coordinates = torch.linalg.eigh(self._projection)
        last = coordinates[[index for index, _ in self._ends]]  # (chains, size)
        left = torch.stack([leftover for _, leftover in self._ends])  # (chains, dim)
        gram = (left @ left.T).to("cpu", torch.float64)
        rounding = 4 * torch.finfo(self._like.dtype).eps * self.scale  # no residual is known better than that
        lacking = (self._asymmetry @ coordinates).square().sum(dim=0)
        residuals = ((last * (gram @ last)).sum(dim=0).clamp(min=0) + lacking + rounding**2).sqrt()
        return values, coordinates, residuals

    def vectors(self, coordinates: Tensor) -> Tensor:
        """Q y for columns y, ``(size, k)`` -> ``(dim, k)``, normalised."""
        found = self._basis[: self.size].T @ coordinates.to(self._basis)
        unit: Tensor = found / torch.linalg.vector_norm(found, dim=0)
        return unit

    def _append(self, vector: Tensor, *, new_chain: bool) -> None:
        if self.size == len(self._basis):
            capacity = min(self._dim, max(16, 2 * self.size))
            grown = torch.empty(capacity, self._dim, dtype=self._like.dtype, device=self._like.device)
            grown[: self.size] = self._basis
            self._basis = grown
        self._basis[self.size] = vector
        self.size += 1
        image = self._product(vector)
        if not torch.isfinite(image).all():
            raise ValueError("a product with the operator is not finite: the loss overflows at these weights")
        self.scale = max(self.scale, float(torch.linalg.vector_norm(image)))
        basis = self._basis[: self.size]
        column = basis @ image
        leftover = image - basis.T @ column
        correction = basis @ leftover  # the second sweep makes the leftover orthogonal to rounding
        leftover -= basis.T @ correction
        column = (column + correction).to("cpu", torch.float64)
        known = torch.zeros(self.size - 1, dtype=torch.float64)  # what the older products have along the new vector
        for index, old in self._ends:
            known[index] = float(vector @ old)
        if not new_chain:
            self._ends.pop()
        # The leftovers of ended chains were orthogonal to the old basis only.
        self._ends = [(index, old - vector * (vector @ old)) for index, old in self._ends]
        self._ends.append((self.size - 1, leftover))
        self._projection, self._asymmetry = (
            torch.nn.functional.pad(matrix, (0, 1, 0, 1)) for matrix in (self._projection, self._asymmetry)
        )
        self._projection[:, -1] = self._projection[-1, :] = column
        self._asymmetry[-1, :-1] = known - column[:-1]

    def _orthogonalised(self, vector: Tensor) -> Tensor:
        basis = self._basis[: self.size]
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector

    def _negligible(self, length: float) -> bool:
        return length <= 10 * torch.finfo(self._like.dtype).eps * max(self.scale, torch.finfo(self._like.dtype).tiny)
