"""The search for the ends of a spectrum: what is added to a subspace next, and when it is enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.ends import Ends
from landscape.hidden import chance_of_hiding
from landscape.operators import CurvatureOperator
from landscape.subspace import Subspace

NEAR = 1e-2  # how far beyond the outermost value found, relative to it, another one is looked for at least
ROOM = 12  # vectors a chain that looks for copies should have before it


@dataclass(frozen=True)
class Budget:
    """How many products may be spent, and until when."""

    products: int
    deadline: float = math.inf  # of time.monotonic()

    def exceeded(self, products: int) -> str:
        """Why no further product may be taken; empty when one may."""
        if products >= self.products:
            return "out of products"
        return "out of time" if time.monotonic() >= self.deadline else ""


@dataclass(frozen=True)
class Pairs:
    """Ritz pairs in the order asked for; residuals with the rounding in them."""

    values: Tensor  # (count,)
    coordinates: Tensor  # (size, count)
    residuals: Tensor  # (count,)
    allowed: Tensor  # (count,), what residuals must not exceed
    directions: Tensor  # (dim, count), A v − θ v

    @property
    def converged(self) -> Tensor:
        """Which of them are within the tolerance, ``(count,)``."""
        return self.residuals <= self.allowed


class Search:
    """A subspace that grows until it holds the wanted eigenpairs.

    Args:
        operator: the symmetric matrix.
        ends: which pairs are wanted.
        tol: relative tolerance on their residuals.
        budget: what may be spent; ``ends.k`` products are spent in any case.
        chance: with which an eigenvalue may stay hidden, by each of the two tests; 1 does without them.
        max_basis: vectors that are held at once.
        seed: of the random vectors.
        report: called with the products done, after each.
    """

    def __init__(
        self,
        operator: CurvatureOperator,
        ends: Ends,
        *,
        tol: float,
        budget: Budget,
        chance: float,
        max_basis: int,
        seed: int,
        report: Callable[[int], None],
    ) -> None:
        self.ends, self.tol, self.budget, self.chance = ends, tol, budget, chance
        self.space = Subspace(operator.apply, like=operator.weights, most=max_basis)
        self.stopped = ""
        self._started_again = False
        self._dim = operator.dim
        self._rounding = torch.finfo(operator.weights.dtype).eps
        self._generator = torch.Generator().manual_seed(seed)
        self._report = report

    def run(self, initial: Tensor | None) -> Pairs:
        """Search, and say in :attr:`stopped` why it ended.

        Args:
            initial: vectors to start near, ``(dim, j)``.
        """
        self.space.start(self._generator, near=initial)
        self._report(1)
        self._until_converged(Ends(self.ends.which, self.ends.k, more=1))
        while not self.stopped and not self._none_hides_outside():
            self._add(None)
            self._until_converged(Ends(self.ends.which, self.ends.k, more=1))
        while not self.stopped and not self._no_copy_hides():
            self._until_converged(Ends(self.ends.which, self.ends.k, more=1))
        if not self.stopped:
            self._until_converged(self.ends)
        pairs = self.pairs(self.ends)
        if bool(pairs.converged.all()) and not self.stopped:
            self.stopped = "converged"
        return pairs

    def pairs(self, ends: Ends) -> Pairs:
        """The wanted Ritz pairs of the subspace as it is."""
        values, coordinates = self.space.ritz()
        places = ends.places(values)
        values, coordinates = values[places], coordinates[:, places]
        directions = self.space.residuals(values, coordinates)
        norms = torch.linalg.vector_norm(directions, dim=0).to("cpu", torch.float64)
        floor = 4 * self._rounding * self.space.scale  # no residual is known better than that
        allowed = self.tol * values.abs() + 100 * self._rounding * self.space.scale
        return Pairs(values, coordinates, (norms**2 + floor**2).sqrt(), allowed, directions)

    def _until_converged(self, ends: Ends) -> None:
        while self.space.size < self.ends.k or not self._may_not_go_on():
            pairs = self.pairs(ends)
            behind = (~pairs.converged).nonzero().flatten().tolist()
            if not behind and self.space.size >= min(ends.k + ends.more, self._dim):
                return
            # In the space of one chain all residuals are parallel to what the chain would add next.
            self._add(pairs.directions[:, behind[0]] if behind else None)

    def _none_hides_outside(self) -> bool:
        """Whether the first chain would have seen an eigenvalue beyond all that it found, but for a small chance."""
        compressed = self.space.size < self.space.num_products
        if self.chance >= 1 or self.space.complete or compressed or self._started_again:
            return True  # a basis that was compressed has had products enough
        pairs = self.pairs(self.ends)
        allowed = pairs.allowed.clamp(min=NEAR * float(pairs.values.abs().max()))
        beyond = self.ends.outside(pairs.values, allowed)
        return max(chance_of_hiding(self.space.projection, at, dim=self._dim) for at in beyond) < self.chance

    def _no_copy_hides(self) -> bool:
        """Whether a chain from a random vector finds nothing new, and would have but for a small chance."""
        before = self.pairs(self.ends)
        borders = self.ends.borders(before.values, before.allowed)
        if not borders or self.chance >= 1 or self.space.complete:
            return True
        self._make_room(ROOM)
        kept = self.space.size
        self.space.start(self._generator)
        while True:
            self._report(self.space.num_products)
            now = self.pairs(self.ends)
            if bool(((now.values - before.values).abs() > before.allowed).any()):
                return False
            chain = self.space.projection[kept:, kept:]
            if max(chance_of_hiding(chain, at, dim=self._dim - kept) for _, at in borders) < self.chance:
                return True
            if self._may_not_go_on():
                return False
            if self.space.full:
                return False
            if not self.space.follow():
                return True  # what the random vector is made of has been seen whole

    def _add(self, direction: Tensor | None) -> None:
        self._make_room(1)
        added = self.space.follow() if direction is None else self.space.extend(direction)
        if not added:
            self._started_again = True
            self.space.start(self._generator)
        self._report(self.space.num_products)

    def _make_room(self, needed: int) -> None:
        """Keep the wanted half of the Ritz vectors where the basis can hold no more (thick restart)."""
        if self.space.most < self._dim and self.space.room < needed:
            few = len(self.ends.places(torch.zeros(self.space.size))) + 2
            more = max(1, (self.space.most - few - needed) // (4 if self.ends.which == "BE" else 2))
            values, coordinates = self.space.ritz()
            self.space.compress(coordinates[:, Ends(self.ends.which, self.ends.k, more=more).places(values)])

    def _may_not_go_on(self) -> bool:
        if self.space.complete:
            self.stopped = "" if bool(self.pairs(self.ends).converged.all()) else "no direction is left"
            return True
        self.stopped = self.budget.exceeded(self.space.num_products)
        return bool(self.stopped)
