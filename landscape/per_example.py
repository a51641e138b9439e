"""The trace of a Hessian from probes that are other ones for each example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from landscape.estimators import Estimation, Estimator, Samples, Source
from landscape.layers import UnsupportedError
from landscape.measures import BlocksOfTheTrace, Measure
from landscape.operators import HessianOperator
from landscape.residual import ResidualOperator
from landscape.steps import Steps


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
        with layers_refused(self):
            return _Probes(source, measure, Steps(operator))


@contextlib.contextmanager
def layers_refused(by: object) -> Iterator[None]:
    """Within it a model that cannot be taken layer by layer is refused with a way out."""
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
        steps.require_own()
        steps.require_right(self._seed)

    def spend(self, budget: int) -> None:
        while self.products < budget:
            with layers_refused(PerExample()):  # batches that are read later may be of another shape
                self._values.append(self._steps.curvatures(self._seed, self.products))
            self.products += 1
            self.source.spent(1)

    def samples(self) -> Samples:
        return Samples.independent(torch.stack(self._values, dim=1))

    @property
    def words(self) -> str:
        return "second derivatives along steps of each example's own"
