"""The search for the ends of a spectrum: what is added to a subspace next, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.clock import Clock
from landscape.ends import Ends
from landscape.hidden import Chain
from landscape.operators import CurvatureOperator
from landscape.subspace import Subspace

NEAR = 1e-2  # how far beyond the outermost value found, relative to it, another one is looked for at least
ROOM = 12  # vectors a chain that looks for copies should have before it


@dataclass(frozen=True)
class Budget:
    """How many products may be spent, and until when."""

    products: int
    clock: Clock

    def exceeded(self, products: int) -> str:
        """Why no further product may be taken; empty when one may."""
        if products >= self.products:
            return "out of products"
        return "out of time" if self.clock.is_over else ""


@dataclass(frozen=True)
class Pairs:
    """Ritz pairs in the order asked for; residuals with the rounding in them."""

    values: Tensor  # (count,)
    coordinates: Tensor  # (size, count)
    residuals: Tensor  # (count,)
    allowed: Tensor  # (count,), what residuals must not exceed

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
        self._sharing, self._weights = operator.objective.work.sharing, operator.weights
        self.ends, self.tol, self.budget, self.chance = ends, tol, budget, chance
        self.space = Subspace(operator.apply, like=operator.weights, most=max_basis, led=self._sharing.led)
        self.stopped = ""
        self._started_again = False
        self._state, self._pairs = (0, 0), dict[Ends, Pairs]()  # what is known of the subspace as it is
        self._dim = operator.dim
        self._wanted = Ends(ends.which, ends.k, more=1)
        self._longer = 1.0  # squared length of the first vector, of its random part
        self._rounding = torch.finfo(operator.weights.dtype).eps
        self._generator = torch.Generator().manual_seed(seed)
        self._report = report

    def run(self, initial: Tensor | None) -> Pairs:
        """Search, and say in :attr:`stopped` why it ended.

        Args:
            initial: vectors to start near, ``(dim, j)``.
        """
        self._longer = self.space.start(self._generator, near=initial)
        self._report(1)
        if self.chance < 1:
            self._until(self._nearly_converged)
        another: Chain | None = None
        looked = False
        while not self.stopped:
            if self.chance < 1 and self._agreed(looked or bool(self._borders())):
                another, looked = self._another_chain(), True
            self._until(self._one_more_converged)
            if self.stopped or self._agreed(self._none_hides(another, looked)):
                break
            if self._agreed(not looked and not self._borders()):
                self._make_room(1)
                outside, is_rounding = self.space.outside(self.space.next)
                self._extend(outside, is_rounding=self._agreed(is_rounding))
        if not self.stopped:
            self._until(lambda: bool(self.pairs(self.ends).converged.all()))
        pairs = self.pairs(self.ends)
        if bool(pairs.converged.all()) and not self.stopped:
            self.stopped = "converged"
        return pairs

    def pairs(self, ends: Ends) -> Pairs:
        """The wanted Ritz pairs of the subspace as it is."""
        state = self.space.num_products, self.space.size
        if state != self._state:
            self._state, self._pairs = state, {}
        if ends not in self._pairs:
            self._pairs[ends] = self._found(ends)
        return self._pairs[ends]

    def _found(self, ends: Ends) -> Pairs:
        values, coordinates = self.space.ritz()
        places = ends.places(values)
        values, coordinates = values[places], coordinates[:, places]
        norms = torch.linalg.vector_norm(self.space.residuals(values, coordinates), dim=0).cpu().double()
        floor = 4 * self._rounding * self.space.scale  # no residual is known better than that
        allowed = self.tol * values.abs() + 100 * self._rounding * self.space.scale
        return Pairs(values, coordinates, (norms**2 + floor**2).sqrt(), allowed)

    def _decided(self, found: int) -> int:
        """What all processes go by, where one of another kind may round to the other side."""
        return int(self._sharing.found(found, like=self._weights))

    def _agreed(self, found: bool) -> bool:
        return bool(self._decided(int(found)))

    def _until(self, enough: Callable[[], bool]) -> None:
        while self.space.size < self.ends.k or not self._may_not_go_on():
            may_end = self.space.size >= min(self.ends.k + 1, self._dim)
            if self._stepped(ended=may_end and enough()):
                return

    def _stepped(self, *, ended: bool) -> bool:
        """Add the residual of the first pair that has not converged, unless it has ended; whether it has."""
        # In the space of one chain all residuals are parallel to what the chain would add next; before there are as
        # many vectors as pairs, it is one, and there are no pairs to look at.
        place = self._place_behind() if self.space.size > self.ends.k else -1
        outside, is_rounding = self.space.outside(self._residual(place))
        code = self._decided(0 if ended else 1 + 2 * (place + 1) + is_rounding)
        if code == 0:
            return True
        chosen, is_rounding = (code - 1) // 2 - 1, bool((code - 1) % 2)
        if chosen != place:
            outside, _ = self.space.outside(self._residual(chosen))
        self._make_room(1)  # what is outside the space is outside the part that is kept
        self._extend(outside, is_rounding=is_rounding)
        return False

    def _one_more_converged(self) -> bool:
        return bool(self.pairs(self._wanted).converged.all())

    def _nearly_converged(self) -> bool:
        """Whether all pairs but the last at each end have converged, so that another chain can do what remains."""
        return int((~self.pairs(self.ends).converged).sum()) <= (2 if self.ends.which == "BE" else 1)

    def _behind(self) -> Tensor | None:
        """The residual of the first pair that has not converged."""
        place = self._decided(self._place_behind())
        return None if place < 0 else self._residual(place)

    def _place_behind(self) -> int:
        """Which pair is the first that has not converged; -1 where all have."""
        places = (~self.pairs(self._wanted).converged).nonzero().flatten().tolist()
        return int(places[0]) if places else -1

    def _residual(self, place: int) -> Tensor:
        """That of a pair; what Lanczos follows where there is none."""
        if place < 0:
            return self.space.next
        pairs, one = self.pairs(self._wanted), slice(place, place + 1)
        return self.space.residuals(pairs.values[one], pairs.coordinates[:, one])[:, 0]

    def _borders(self) -> list[tuple[float, float]]:
        """From where on inwards a copy of a wanted eigenvalue counts, which rounding may have moved."""
        pairs, rounding = self.pairs(self.ends), 100 * self._rounding * self.space.scale
        return [(sign, at - sign * rounding) for sign, at in self.ends.borders(pairs.values, pairs.allowed)]

    def _places(self) -> list[tuple[float, float]]:
        """Where no eigenvalue may hide, (sign, μ): from there on outwards one would change the answer."""
        pairs = self.pairs(self.ends)
        beyond = pairs.allowed.clamp(min=NEAR * float(pairs.values.abs().max()))
        return self._borders() + self.ends.outside(pairs.values, beyond)

    def _none_hides(self, another: Chain | None, looked: bool) -> bool:
        """Whether one of the chains would have seen what could change the answer, but for a small chance."""
        if self.chance >= 1 or self.space.complete:
            return True
        if looked:
            return another is not None and all(another.excludes(*place, chance=self.chance) for place in self._places())
        if self._borders():
            return False
        if self.space.size < self.space.num_products or self._started_again:
            return True  # a basis that was compressed has had products enough
        first = Chain(self.space.projection, self.space.following, self._dim * self._longer)
        return all(first.hides(at) < self.chance for _, at in self._places())

    def _another_chain(self) -> Chain | None:
        """Follow a random vector until what it has not seen does not matter; None if it comes upon something new.

        Copies of an eigenvalue are invisible to one chain, and a chain from another vector sees them. It begins midway
        between a random vector and what the pairs lack, and so goes on with their convergence.
        """
        behind = self._behind()
        self._make_room(ROOM)
        kept = self.space.size
        if self.space.complete:
            return None
        longer = self.space.start(self._generator, near=None if behind is None else behind[:, None])
        while True:
            self._report(self.space.num_products)
            T = self.space.projection[kept:, kept:]
            chain = Chain((T + T.T) / 2, self.space.following, (self._dim - kept) * longer)
            places = self._places()
            floor = 100 * self._rounding * self.space.scale
            excluded = all(chain.excludes(*place, chance=self.chance) for place in places)
            found = any(chain.has_found(sign, at, within=self.tol * abs(at) + floor) for sign, at in places)
            outside, is_rounding = self.space.outside(self.space.next)
            verdict = self._decided(0 if excluded else 1 if found else 2 + is_rounding)
            if verdict == 0:
                return chain
            over = self.space.complete or self.space.full
            if verdict == 1 or over or self.budget.exceeded(self.space.num_products):
                return None
            if verdict == 3:
                return replace(chain, following=0.0)  # what the random vector is made of has been seen whole
            self.space.add(outside)

    def _extend(self, outside: Tensor, *, is_rounding: bool) -> None:
        """Add a vector outside the space; a random one where that is nothing but rounding."""
        if is_rounding:
            self._started_again = True
            self.space.start(self._generator)
        else:
            self.space.add(outside)
        self._report(self.space.num_products)

    def _make_room(self, needed: int) -> None:
        """Keep the wanted half of the Ritz vectors where the basis can hold no more (thick restart)."""
        if self.space.most < self._dim and self.space.room < needed:
            few = len(self.ends.places(torch.zeros(self.space.size, device="cpu"))) + 2
            more = max(1, (self.space.most - few - needed) // (4 if self.ends.which == "BE" else 2))
            values, coordinates = self.space.ritz()
            self.space.compress(coordinates[:, Ends(self.ends.which, self.ends.k, more=more).places(values)])

    def _may_not_go_on(self) -> bool:
        if self.space.complete:
            whole = self._agreed(bool(self.pairs(self.ends).converged.all()))
            self.stopped = "" if whole else "no direction is left"
            return True
        self.stopped = self.budget.exceeded(self.space.num_products)
        return bool(self.stopped)
