"""Traces and diagonals of the Hessian that begin with those of the Gauss-Newton matrix, known without chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.estimators import Estimation, Estimator, Samples, Source
from landscape.measures import Measure, Pair, square
from landscape.operators import CurvatureOperator, GGNOperator, HessianOperator
from landscape.per_example import PerExample, layers_refused
from landscape.residual import ResidualOperator
from landscape.squares import ExampleSquares

PASSES = "squares of each example's gradients"


class ExactGaussNewton(Estimator):
    """tr H = tr G + tr (H − G): the Gauss-Newton matrix G without chance, and an estimate of the rest alone.

    The diagonal of G takes a pass up and down the network for each output of an example, for the cross-entropy one
    less, in which layers give the squares of what is each example's own. Each pass counts as a product; those of the
    budget that are left estimate the rest. Where activations are piecewise linear, as ReLU, and no weight acts twice,
    the diagonal of the rest is zero.

    For classifiers of few classes that are trained well, ReLU networks above all. Where outputs are many, such as the
    words of a vocabulary, ``PerExample()`` and ``KrylovAware()`` need fewer products. The trace and the diagonal of a
    ``GGNOperator`` are exact by it. The passes are made whatever the time that is given.

    Args:
        rest: the estimator of the rest, ``PerExample()`` when left out; for a diagonal ``KrylovAware()`` or another.

    Source: the diagonal, Dangel, Kunstner and Hennig 2020 (BackPACK), arXiv 1912.10985.

    >>> from landscape.objective import Objective
    >>> from landscape.traces import trace
    >>> model = torch.nn.Linear(4, 1, bias=False).double()
    >>> data = [(torch.tensor([1.0, 2.0, 3.0, 4.0]).double().diag(), torch.zeros(4, 1).double())]
    >>> gauss_newton = GGNOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(1, 4, 9, 16) / 2
    >>> round(trace(gauss_newton, num_probes=2, estimator=ExactGaussNewton()).estimate, 9)
    15.0
    """

    def __init__(self, rest: Estimator | None = None) -> None:
        if rest is not None and not isinstance(rest, Estimator):
            raise TypeError(f"rest must be an estimator such as Hutchinson() or KrylovAware(); got {rest!r}")
        self.rest = PerExample() if rest is None else rest
        self.minimum = self.rest.minimum

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """The diagonal of G, and then an estimate of the rest.

        Raises:
            TypeError: if the operator is neither a Hessian nor a Gauss-Newton matrix, or ‖H‖_F is asked for.
            ValueError: if a layer cannot be taken this way, or the budget does not suffice for the outputs.
        """
        operator = source.operator
        if type(operator) not in (HessianOperator, GGNOperator):
            name = "none" if operator is None else operator.settings()["name"]
            raise TypeError(f"{self!r} takes a HessianOperator or a GGNOperator; got {name}. Use KrylovAware().")
        if measure is square:
            raise TypeError(f"{self!r} finds traces and diagonals, and ‖H‖_F is more. Use KrylovAware().")
        assert operator is not None
        diagonal, passes = self._diagonal(operator, source.budget)
        source.spent(passes)
        pair = Pair(torch.ones_like(diagonal)[:, None], diagonal[:, None])
        known = measure(pair, pair)[:, 0]  # the forms are parts of the diagonal
        if type(operator) is GGNOperator:
            return _Known(source, measure, known, passes)
        residual = ResidualOperator(operator.here)
        rest = self.rest.begin(source._replace(apply=residual.apply, operator=residual), measure)
        return _WithRest(rest, known, passes, least=self.minimum)

    def _diagonal(self, operator: CurvatureOperator, budget: int) -> tuple[Tensor, int]:
        """That of G, and how many passes it took."""
        with layers_refused(self):
            squares = ExampleSquares(operator.here)
            most = squares.num_outputs
            least = most + (0 if type(operator) is GGNOperator else self.minimum)
            if least > budget:
                raise ValueError(
                    f"an example has {most} outputs, and {self!r} takes a pass for each, which counts as a product: "
                    f"give num_probes={least} or more, or use KrylovAware(); got {budget}"
                    + (", as many as there are weights" if budget == operator.dim else "")
                )
            return squares.diagonal()

    def settings(self) -> dict[str, Any]:
        """See :class:`Estimator`."""
        return super().settings() | {"rest": type(self.rest).__name__}

    def __repr__(self) -> str:
        return f"ExactGaussNewton({self.rest!r})"


class _Known(Estimation):
    """Traces of forms, ``(forms,)``, that are known."""

    is_exact = True

    def __init__(self, source: Source, measure: Measure, known: Tensor, products: int) -> None:
        super().__init__(source, measure)
        self._known, self.products = known, products

    def spend(self, budget: int) -> None:
        del budget

    def samples(self) -> Samples:
        return Samples.exact(self._known)

    @property
    def words(self) -> str:
        return PASSES


class _WithRest(Estimation):
    """The same, with an estimate of what there is besides."""

    def __init__(self, rest: Estimation, known: Tensor, products: int, *, least: int) -> None:
        super().__init__(rest.source, rest.measure)
        self._rest, self._known, self._before, self._least = rest, known[:, None], products, least

    def spend(self, budget: int) -> None:
        self._rest.spend(max(budget - self._before, self._least))
        self.products = self._before + self._rest.products

    def samples(self) -> Samples:
        return Samples(*(self._known + part for part in self._rest.samples()))

    @property
    def words(self) -> str:
        return f"{PASSES}; of the rest, {self._rest.words}"
