"""How traces are estimated from products: Hutchinson, Hutch++, and deflation by a Krylov space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from landscape.measures import Measure, Pair
from landscape.orthonormal import gaussian, orthonormal

if TYPE_CHECKING:
    from landscape.operators import CurvatureOperator

BLOCK = 10  # probes that are multiplied at once


class Samples(NamedTuple):
    """Estimates of the traces of some forms, and what tells how far they vary.

    Attributes:
        values: ``(forms, k)``; the estimate is the mean over the columns.
        without: ``(forms, k)``, the estimate without each of the k probes (the jackknife).
    """

    values: Tensor
    without: Tensor

    @classmethod
    def independent(cls, values: Tensor) -> Samples:
        """From independent samples: the estimate without one of them is the mean of the others."""
        return cls(values, (values.sum(dim=1, keepdim=True) - values) / (values.shape[1] - 1))

    @classmethod
    def exact(cls, values: Tensor) -> Samples:
        """From values that are known, ``(forms,)``, as if they had been found twice."""
        twice = values[:, None].expand(-1, 2)
        return cls(twice, twice)


class Source(NamedTuple):
    """What an estimate is made from.

    Attributes:
        apply: (dim, k) ↦ the products of the columns.
        like: ``(dim,)``, with the device and dtype to work in.
        generator: of the probes, on the CPU.
        led: columns ↦ what is multiplied in place of them: themselves, or what another process has computed.
        spent: told of products when they are there.
        operator: whose products these are, where they are those of one.
        budget: the most products.
    """

    apply: Callable[[Tensor], Tensor]
    like: Tensor
    generator: torch.Generator
    led: Callable[[Tensor], Tensor] = lambda columns: columns
    spent: Callable[[int], None] = lambda products: None  # noqa: ARG005
    operator: CurvatureOperator | None = None
    budget: int = 0

    def images(self, vectors: Tensor) -> Tensor:
        """The products of the columns."""
        images = self.apply(vectors)
        if not torch.isfinite(images).all():
            raise ValueError("a product with the operator is not finite: the loss overflows at these weights")
        self.spent(vectors.shape[1])
        return images

    def signs(self, count: int) -> Tensor:
        """Random signs, ``(dim, count)``."""
        shape = (count, len(self.like))
        drawn = torch.randint(0, 2, shape, generator=self.generator, dtype=torch.int8, device="cpu")
        return (2 * drawn - 1).to(self.like).T


class Estimation(ABC):
    """One estimate in progress; it can be continued, and nothing that was spent is lost."""

    is_exact = False  # whether there is no chance in it, so that its samples are twice the same

    def __init__(self, source: Source, measure: Measure) -> None:
        self.source = source
        self.measure = measure
        self.products = 0

    @abstractmethod
    def spend(self, budget: int) -> None:
        """Go on until ``budget`` products are spent in all, or as many as make sense near it."""

    @abstractmethod
    def samples(self) -> Samples:
        """What has been found so far."""

    @property
    def words(self) -> str:
        """How products were computed."""
        return "" if self.source.operator is None else self.source.operator.words

    def multiplied(self, vectors: Tensor) -> Pair:
        """Columns with their products, which are counted."""
        vectors = self.source.led(vectors)
        images = torch.empty_like(vectors)
        for place in range(0, vectors.shape[1], BLOCK):
            columns = slice(place, place + BLOCK)
            images[:, columns] = self.source.images(vectors[:, columns])
        self.products += vectors.shape[1]
        return Pair(vectors, images)


class Estimator(ABC):
    """A way to estimate traces from products."""

    minimum = 2  # products that an estimate with a standard error takes

    @abstractmethod
    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate."""

    def settings(self) -> dict[str, Any]:
        """What tells the way from others, for a manifest."""
        return {"estimator": type(self).__name__}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Hutchinson(Estimator):
    """The mean of z'Hz over random signs z; its variance is 2 Σ_{i≠j} H_ij² / n for n products.

    The one that keeps no vector, and the best for flat spectra. Source: Hutchinson 1990.
    """

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate."""
        return _Signs(source, measure)


class HutchPlusPlus(Estimator):
    """A third of the products sketches the range of H, a third gives tr Q'HQ there, a third samples what is left.

    tr H = tr Q'HQ + E[u'Hu], u = (I − QQ')z for random signs z. The standard error is that of the second term, in which
    alone there is chance once Q is given. Keeps a vector per product, and takes 5/3 for a moment. Source: Meyer, Musco,
    Musco and Woodruff 2021, arXiv 2010.09649.
    """

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate."""
        return _Sketched(source, measure)


class KrylovAware(Estimator):
    """Half of the products builds a Krylov space from a random vector, half samples what is left.

    tr H = tr Q'HQ + E[u'Hu] as in Hutch++, but H Q is known for the whole space at no further cost, and a Krylov space
    finds the large eigenvalues in fewer products than a sketch. The standard error is that of the second term. Source:
    Chen and Hallman 2022, arXiv 2205.01736.

    Keeps 3/2 vectors of the size of the weights per product, and some thirty more for a block.
    """

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate."""
        return _Krylov(source, measure)


class _Signs(Estimation):
    """Hutchinson."""

    def __init__(self, source: Source, measure: Measure) -> None:
        super().__init__(source, measure)
        self._values: list[Tensor] = []

    def spend(self, budget: int) -> None:
        while self.products < budget:
            pair = self.multiplied(self.source.signs(min(BLOCK, budget - self.products)))
            self._values.append(self.measure(pair, pair))

    def samples(self) -> Samples:
        return Samples.independent(torch.cat(self._values, dim=1))


class _Deflated(Estimation):
    """tr H = tr Q'HQ + E[u'Hu]: a basis Q that can be extended, and probes that are kept orthogonal to it."""

    def __init__(self, source: Source, measure: Measure) -> None:
        super().__init__(source, measure)
        none = source.like.new_empty(len(source.like), 0)
        self._basis = none
        self._probes: list[Pair] = []  # of BLOCK columns at the most
        self._newest = gaussian(1, like=source.like, generator=source.generator)
        self._fixed = measure(Pair(none, none), Pair(none, none)).sum(dim=1, keepdim=True)  # tr Q'HQ, (forms, 1)

    @property
    def drawn(self) -> int:
        """The number of probes."""
        return sum(pair.vectors.shape[1] for pair in self._probes)

    def extend(self, columns: Tensor) -> None:
        """Take the span of columns into the basis."""
        new = self.multiplied(orthonormal(columns, self._basis, generator=self.source.generator))
        self._fixed = self._fixed + self.measure(new, new).sum(dim=1, keepdim=True)
        for pair in self._probes:
            along = new.through(new.vectors.T @ pair.vectors)
            pair.vectors.sub_(along.vectors)
            pair.images.sub_(along.images)
        self._basis = torch.cat([self._basis, new.vectors], dim=1)
        self._newest = new.images

    def draw(self, count: int) -> None:
        """More probes."""
        for first in range(0, count, BLOCK):
            signs = self.source.signs(min(BLOCK, count - first))
            for _ in range(2):
                signs = signs - self._basis @ (self._basis.T @ signs)
            self._probes.append(self.multiplied(signs))

    def samples(self) -> Samples:
        return Samples.independent(self._fixed + torch.cat([self.measure(pair, pair) for pair in self._probes], dim=1))


class _Sketched(_Deflated):
    """Hutch++."""

    def spend(self, budget: int) -> None:
        wanted = min(budget // 3, (budget - 2) // 2)
        if (new := wanted - self._basis.shape[1]) > 0:
            self.extend(self.multiplied(self.source.signs(new)).images)
        if (new := budget - 2 * self._basis.shape[1] - self.drawn) > 0:
            self.draw(new)


class _Krylov(_Deflated):
    """The Krylov space of a random vector, deflated."""

    def spend(self, budget: int) -> None:
        for _ in range(min(budget // 2, budget - 2) - self._basis.shape[1]):
            self.extend(self._newest)
        if (new := budget - self._basis.shape[1] - self.drawn) > 0:
            self.draw(new)


class Coordinates(Estimation):
    """All coordinate vectors: exact, for as many products as H has rows."""

    is_exact = True

    def spend(self, budget: int) -> None:
        """All, whatever the budget."""
        del budget
        dim = len(self.source.like)
        self._sums: list[Tensor] = []
        for first in range(0, dim, BLOCK):
            unit = self.source.like.new_zeros(dim, min(BLOCK, dim - first))
            unit[range(first, first + unit.shape[1]), range(unit.shape[1])] = 1
            pair = self.multiplied(unit)
            self._sums.append(self.measure(pair, pair).sum(dim=1))

    def samples(self) -> Samples:
        """The one exact value."""
        return Samples.exact(torch.stack(self._sums).sum(dim=0))
