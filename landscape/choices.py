"""Ways of computing products that choose among others: by what the model allows, and by what is quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from landscape.certificate import signs
from landscape.curvatures import Curvature
from landscape.forward_mode import ForwardOverReverse
from landscape.memory import is_out_of_memory
from landscape.processes import Sharing
from landscape.products import NoSecondDerivativeError
from landscape.terms import Term
from landscape.ways import Bound, Bytes, KeptGraphs, Products

SLACK = 10  # times the error that differences are said to have


class FirstThatWorks(Products):
    """The first of several ways that the model can be taken: the next one where it has no second derivative.

    Args:
        ways: in the order of preference.

    Raises:
        ValueError: if there is none.
    """

    def __init__(self, *ways: Products) -> None:
        self.ways = _some(ways)

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        return _FirstThatWorks(
            [partial(way.bind, curvature, w, terms, graph_bytes=graph_bytes, sharing=sharing) for way in self.ways]
        )

    def __repr__(self) -> str:
        return f"FirstThatWorks({', '.join(map(repr, self.ways))})"


class FastestProducts(Products):
    """The quickest of several ways, measured on the first term. The choice, and so rounding, may differ between runs;
    where processes share the work, the first one's choice is that of all.

    Args:
        ways: to choose from; kept graphs and forward-over-reverse when left out.

    Raises:
        ValueError: when bound, if two ways disagree on two vectors by more than rounding and what differences are said
            to be off.
    """

    def __init__(self, *ways: Products) -> None:
        self.ways = _some(ways or (KeptGraphs(), ForwardOverReverse()))

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        binds = [partial(way.bind, curvature, w, terms, graph_bytes=graph_bytes, sharing=sharing) for way in self.ways]
        timed, refusals = self._timed(binds, w, terms) if terms else ({}, {})
        quickest = min(timed, key=lambda place: timed[place][0]) if timed else 0
        failure = _disagreement([(bound, image) for _, bound, image in timed.values()])
        chosen = int(sharing.decided(quickest, like=w, failure=failure))
        if chosen in refusals:
            raise refusals[chosen]
        for place, (_, bound, _) in timed.items():
            if place != chosen:
                bound.release()
        return timed[chosen][1] if chosen in timed else binds[chosen]()

    def _timed(
        self, binds: Sequence[Callable[[], Bound]], w: Tensor, terms: Sequence[Term]
    ) -> tuple[dict[int, tuple[float, Bound, Tensor]], dict[int, Exception]]:
        """Seconds of each way that can be taken, and what the others say."""
        block = signs(w, 2).T  # (dim, 2)
        timed: dict[int, tuple[float, Bound, Tensor]] = {}
        refusals: dict[int, Exception] = {}
        for place, bind in enumerate(binds):
            try:
                bound = bind()
                image = bound.product(terms[0], block)
                begin = time.perf_counter()
                float(bound.product(terms[0], block[:, :1]).sum())
            except (RuntimeError, ValueError) as error:  # what cannot be taken this way, whatever it raises
                if is_out_of_memory(error):
                    raise
                refusals[place] = error
                continue
            timed[place] = (time.perf_counter() - begin, bound, image)
        return timed, refusals

    def __repr__(self) -> str:
        return f"FastestProducts({', '.join(map(repr, self.ways))})"


def _disagreement(ways: Sequence[tuple[Bound, Tensor]]) -> ValueError | None:
    """What is to be said where ways differ from the first exact one by more than rounding and their own errors."""
    first, truth = next(((bound, image) for bound, image in ways if bound.is_exact), (None, None))
    for bound, image in ways:
        if first is None or truth is None or bound is first:
            continue
        apart = float((image - truth).norm() / (truth.norm() + torch.finfo(image.dtype).tiny))
        if not apart <= 1e4 * torch.finfo(image.dtype).eps + SLACK * bound.error:  # also when it is NaN
            return ValueError(
                f"products by {first.words} and by {bound.words} differ by {apart:.1e} of their size; one of them is "
                "wrong for this model. Take one way by name, and hold it against CentralDifferences()."
            )
    return None


class _FirstThatWorks(Bound):
    def __init__(self, ways: list[Callable[[], Bound]]) -> None:
        self.bound, *self.others = ways[0](), *ways[1:]

    def product(self, term: Term, V: Tensor) -> Tensor:
        try:
            return self.bound.product(term, V)
        except NoSecondDerivativeError:
            if not self.others:
                raise
            self.bound, *self.others = self.others[0](), *self.others[1:]
            return self.product(term, V)

    @property
    def words(self) -> str:
        return self.bound.words

    @property
    def is_exact(self) -> bool:
        return self.bound.is_exact

    @property
    def error(self) -> float:
        return self.bound.error

    def release(self) -> bool:
        return self.bound.release()


def _some(ways: Sequence[Products]) -> tuple[Products, ...]:
    if not ways or not all(isinstance(way, Products) for way in ways):
        raise ValueError(f"one or more ways of computing products are needed; got {list(ways)}")
    return tuple(ways)
