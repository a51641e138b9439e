"""The trace of a Hessian from probes that are other ones for each example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from landscape.batches import num_examples
from landscape.certificate import sample
from landscape.curvatures import HESSIAN
from landscape.estimators import Estimation, Estimator, Samples, Source
from landscape.layers import Passes, UnsupportedError
from landscape.layers.directions import Directions, num_signs
from landscape.layers.watched import Watched
from landscape.measures import BlocksOfTheTrace, Measure
from landscape.operators import HessianOperator
from landscape.perturbations import GradientAscent
from landscape.products import second_derivatives, slope_of
from landscape.residual import ResidualOperator
from landscape.shards import Shards
from landscape.stacks import Ascent
from landscape.terms import Term

TOGETHER = 64  # examples whose signs are drawn together, whichever chunk and process they are in
AGREES = 1e-3  # relative difference from a product, for the first example

ANY = Ascent(GradientAscent(rho=1.0))  # nothing is perturbed


class PerExample(Estimator):
    """The mean of Σᵢ dᵢ zᵢ'Hᵢzᵢ / Σᵢ dᵢ over random zᵢ, with Hᵢ the Hessian of the loss of example i.

    Hutchinson's estimator with a probe of its own for each example, so that its variance falls with their number: it is
    about 2 Σᵢ ‖Hᵢ‖² / N² for N examples, where one probe for all has 2 ‖H‖². A probe is a second derivative along steps
    in all layers at once, and costs 1.1 to 1.8 products; nothing is kept that is as large as the weights. In a matrix
    of weights zᵢ is r c' with random signs r and c, as many as rows and columns.

    Source: Hutchinson 1990; that examples have probes of their own is this package's.

    >>> from landscape.objective import Objective
    >>> from landscape.traces import trace
    >>> model = torch.nn.Linear(4, 1, bias=False).double()
    >>> data = [(torch.tensor([1.0, 2.0, 3.0, 4.0]).double().diag(), torch.zeros(4, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # of each example diagonal, too
    >>> round(trace(hessian, num_probes=2, estimator=PerExample()).estimate, 9)
    15.0
    """

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate.

        Raises:
            TypeError: if the operator is another, or something else is asked for than a trace.
            ValueError: if a layer cannot be taken this way.
        """
        operator = source.operator
        if not isinstance(operator, HessianOperator | ResidualOperator):
            name = "none" if operator is None else operator.settings()["name"]
            raise TypeError(f"{self!r} takes a HessianOperator; got {name}. Use KrylovAware().")
        if not isinstance(measure, BlocksOfTheTrace):
            raise TypeError(f"{self!r} finds traces alone. Use another estimator, such as KrylovAware().")
        with _refused(self):
            return _Probes(source, measure, Steps(operator))


@contextlib.contextmanager
def _refused(by: object) -> Iterator[None]:
    try:
        yield
    except UnsupportedError as error:
        raise ValueError(f"{by!r} cannot take this model layer by layer: {error}. Use KrylovAware().") from None


class _Probes(Estimation):
    def __init__(self, source: Source, measure: Measure, steps: Steps) -> None:
        super().__init__(source, measure)
        self._steps, self._values = steps, list[Tensor]()
        high = torch.iinfo(torch.int64).max
        self._seed = int(torch.randint(0, high, (), generator=source.generator, device="cpu"))
        steps.require_right(self._seed)

    def spend(self, budget: int) -> None:
        while self.products < budget:
            with _refused(PerExample()):  # batches that are read later may be of another shape
                self._values.append(self._steps.curvatures(self._seed, self.products))
            self.products += 1
            self.source.spent(1)

    def samples(self) -> Samples:
        return Samples.independent(torch.stack(self._values, dim=1))

    @property
    def words(self) -> str:
        return "second derivatives along steps of each example's own"


class Steps:
    """Second derivatives of the loss along steps in the weights that are other ones for each example.

    Args:
        operator: the Hessian, or its residual.

    Raises:
        UnsupportedError: if a layer cannot be taken this way.
    """

    def __init__(self, operator: HessianOperator | ResidualOperator) -> None:
        objective, self._operator = operator.here, operator
        self._work, self._w, self._space = objective.work, objective.weights, objective.space
        self._watched = Watched(objective, frozen=True)
        self._weights = list(self._watched.weights.values())
        self._signs = [num_signs(shape) for shape in self._space.shapes]

    def curvatures(self, seed: int, probe: int) -> Tensor:
        """z_b'(Hz)_b for each block b, a mean over all examples, ``(blocks,)`` in float64 on the CPU.

        Raises:
            ValueError: if it is not finite.
        """
        like = self._w.new_zeros(len(self._space.names))
        (found,), _ = self._work.means(self._work.terms, lambda term: (self._of_term(term, seed, probe),), like=(like,))
        if not torch.isfinite(found).all():
            raise ValueError("a second derivative is not finite: the loss overflows at these weights")
        return found.cpu().double()

    def require_right(self, seed: int) -> None:
        """For the first example that counts they must be what its product says.

        Raises:
            UnsupportedError: if they are not.
        """
        first = sample(self._work.definition, self._w, self._work.batches, 1)
        term = Term(self._work.definition, first)
        found = self._of_term(term, seed, 0)
        whole = self.direction(term, seed, 0)
        images = type(self._operator)(self._operator.here.part([first])).apply(whole)  # certified where it is the first
        parts = self._space.split(whole * images)
        wanted = torch.stack([part.sum() for part in parts])
        size = (whole * images).abs().sum()
        if not bool((found - wanted).abs().max() <= AGREES * size):
            raise UnsupportedError(
                f"the curvature along a step is {float(found.sum()):.6g}, and {float(wanted.sum()):.6g} by a product"
            )

    def direction(self, term: Term, seed: int, probe: int) -> Tensor:
        """z of the first example of a term, ``(dim,)``."""
        z = self._directions(term, seed, probe)
        return torch.cat([z.vector(weight)[0].flatten() for weight in self._weights])

    def _of_term(self, term: Term, seed: int, probe: int) -> Tensor:
        z = self._directions(term, seed, probe)
        plan, number = self._watched.plan, num_examples(term.batch)
        passes = Passes(Shards(((1, number),)), ANY, plan.anchor, move=z.moved)
        plan.begin(passes)
        definition = self._work.definition
        with torch.enable_grad(), second_derivatives():
            outputs, term.targets = self._watched.forward(term.batch, second=False)
            term.count = definition.denominator(outputs, term.targets)
            loss = self._loss(term, outputs)
            plan.clear()
            slope = slope_of(loss, z.steps, create_graph=True)
            if not slope.requires_grad:
                return torch.zeros_like(slope)
            return slope_of(slope.sum(), z.steps).detach()

    def _loss(self, term: Term, outputs: Tensor) -> Tensor:
        if self._operator.kind is HESSIAN:
            return term.loss_of_outputs(outputs)
        free = outputs.detach().requires_grad_()
        return (slope_of(term.loss_of_outputs(free), free) * outputs).sum()

    def _directions(self, term: Term, seed: int, probe: int) -> Directions:
        """Those of the examples of a term, whichever chunk and process they are in."""
        first, number = term.start, num_examples(term.batch)
        blocks = range(first // TOGETHER, (first + number - 1) // TOGETHER + 1)
        drawn = torch.cat([self._drawn(seed, probe, block) for block in blocks])
        drawn = drawn[first - blocks[0] * TOGETHER :][:number]
        parts = torch.split(drawn.to(self._w).mul_(2).sub_(1), self._signs, dim=1)
        return Directions(self._weights, parts)

    def _drawn(self, seed: int, probe: int, block: int) -> Tensor:
        """Zeros and ones, ``(TOGETHER, signs)``."""
        number = TOGETHER * sum(self._signs)
        words = np.random.PCG64(np.random.SeedSequence([seed, probe, block])).random_raw(-(-number // 64))
        return torch.from_numpy(np.unpackbits(words.astype("<u8").view(np.uint8), count=number)).view(TOGETHER, -1)
