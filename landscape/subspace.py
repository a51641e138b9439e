"""A subspace with its image under a symmetric operator, and what can be said of the operator from the two."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from landscape.pages import Pages

Product = Callable[[Tensor], Tensor]
NEARLY_ALL = 0.7  # of a vector's length: where less is left, rounding is removed in a second sweep (Daniel et al. 1976)


class Subspace:
    """An orthonormal basis Q, its image W = A Q and the projection T = Q'W of a symmetric A.

    Because the images are kept, the residual of a pair (θ, Q y) is computed as it is defined, ‖W y − θ Q y‖: whatever
    the basis was made of, and whatever the products lack in symmetry. Memory: 2 · ``most`` · dim numbers.

    Args:
        product: v ↦ A v for one vector ``(dim,)``.
        like: a vector ``(dim,)`` with the device and dtype to work in.
        most: vectors that the basis may hold; :meth:`compress` makes room.
        led: v ↦ what is multiplied in place of it: v itself, or what another process has computed.
    """

    def __init__(self, product: Product, *, like: Tensor, most: int, led: Product = lambda v: v) -> None:
        self._product, self._led = product, led
        self._like = like
        self.most = min(most, like.numel())
        self._basis, self._images = (Pages(like, most=self.most) for _ in range(2))  # Q', W'
        self._leftover = torch.zeros_like(like)  # of the newest image, orthogonal to the basis
        self.projection = torch.zeros(
            0, 0, dtype=torch.float64, device="cpu"
        )  # T, (size, size) on the CPU, as the products are
        self.num_products = 0
        self.scale = 0.0  # largest ‖A q‖ seen, a lower bound on ‖A‖

    @property
    def size(self) -> int:
        """The number of vectors."""
        return self._basis.size

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.size == self._like.numel()

    @property
    def full(self) -> bool:
        """Whether no vector can be added before :meth:`compress` makes room."""
        return self.size == self.most and not self.complete

    @property
    def room(self) -> int:
        """Vectors that can still be added."""
        return self.most - self.size

    @property
    def following(self) -> float:
        """The length of what the newest image has outside the basis."""
        return float(torch.linalg.vector_norm(self._leftover))

    def outside(self, direction: Tensor) -> tuple[Tensor, bool]:
        """What is orthogonal to the basis in a direction, ``(dim,)``, at length 1; and whether it is but rounding."""
        tiny = torch.finfo(self._like.dtype).tiny
        length = torch.linalg.vector_norm(direction)
        found = self._outside(direction / length.clamp(min=tiny))
        left = torch.linalg.vector_norm(found)
        is_more = float(length) > self._rounding and float(left * length) > self._rounding
        is_more = is_more and float(left) >= 1e3 * torch.finfo(self._like.dtype).eps
        return found / left.clamp(min=tiny), not is_more

    def add(self, outside: Tensor) -> None:
        """Add what :meth:`outside` has found, with one product."""
        self._append(outside)

    def extend(self, direction: Tensor) -> bool:
        """Add what is orthogonal to the basis in a direction, ``(dim,)``; False where that is nothing but rounding."""
        outside, is_rounding = self.outside(direction)
        if not is_rounding:
            self.add(outside)
        return not is_rounding

    @property
    def next(self) -> Tensor:
        """The image of the newest vector less what it has in the basis, which Lanczos follows; ``(dim,)``."""
        return self._leftover

    def follow(self) -> bool:
        """Add the image of the newest vector, as Lanczos does; False where the basis is invariant under A."""
        return self.extend(self._leftover)

    def start(self, generator: torch.Generator, *, near: Tensor | None = None) -> float:
        """Add a random vector, uniform among the directions outside the basis.

        Args:
            generator: on the CPU.
            near: directions ``(dim, j)`` whose sum is added to it, at the same length: what they lack is still found.

        Returns:
            The squared length of the vector, of that of its random part.
        """
        drawn = torch.randn(self._like.numel(), generator=generator, dtype=torch.float64, device="cpu").to(self._like)
        random = self._outside(drawn / torch.linalg.vector_norm(drawn))
        vector = random
        if near is not None:
            together = (near / torch.linalg.vector_norm(near, dim=0)).sum(dim=1)
            length = torch.linalg.vector_norm(together)
            if float(length) > 1e-3:  # they may cancel
                vector = self._outside(random + together / length)
        longer = float((torch.linalg.vector_norm(vector) / torch.linalg.vector_norm(random)).square())
        self._append(self._outside(vector / torch.linalg.vector_norm(vector)))
        return longer

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the symmetric part of T in ascending order, and their coordinates: (size,), (size, size)."""
        values, coordinates = torch.linalg.eigh((self.projection + self.projection.T) / 2)
        return values, coordinates

    def residuals(self, values: Tensor, coordinates: Tensor) -> Tensor:
        """A Q y − θ Q y for values θ ``(k,)`` and columns y ``(size, k)``: a tensor, ``(dim, k)``."""
        images = self._images.combined(coordinates.to(self._like))
        return images.sub_(self.vectors(coordinates).mul_(values.to(self._like)))

    def vectors(self, coordinates: Tensor) -> Tensor:
        """Q y for columns y, ``(size, k)`` -> ``(dim, k)``."""
        return self._basis.combined(coordinates.to(self._like))

    def compress(self, coordinates: Tensor) -> None:
        """Keep the span of Q y for orthonormal columns y, ``(size, k)``: no product is needed (Wu and Simon 2000)."""
        for vectors in (self._basis, self._images):
            vectors.compress(coordinates.to(self._like))
        self.projection = coordinates.T @ self.projection @ coordinates
        self._leftover = self._outside(self._leftover)

    @property
    def _rounding(self) -> float:
        return 10 * torch.finfo(self._like.dtype).eps * self.scale

    def _outside(self, vector: Tensor, along: Tensor | None = None) -> Tensor:
        """What is orthogonal to the basis; ``along`` is Q' vector, where it is known."""
        left = vector - self._basis.combined(self._basis.times(vector) if along is None else along)
        if float(torch.linalg.vector_norm(left)) > NEARLY_ALL * float(torch.linalg.vector_norm(vector)):
            return left
        return left - self._basis.combined(self._basis.times(left))

    def _append(self, vector: Tensor) -> None:
        vector = self._led(vector / torch.linalg.vector_norm(vector))
        image = self._product(vector)
        if not torch.isfinite(image).all():
            raise ValueError("a product with the operator is not finite: the loss overflows at these weights")
        self.num_products += 1
        self._basis.append(vector)
        self._images.append(image)
        self.projection = torch.nn.functional.pad(self.projection, (0, 1, 0, 1))
        self.projection[-1, :] = self._images.times(vector).cpu().double()
        along = self._basis.times(image)
        self.projection[:, -1] = along.cpu().double()
        self.scale = max(self.scale, float(torch.linalg.vector_norm(image)))
        self._leftover = self._outside(image, along)
