"""The loss of a model over a data set as a pure function of the model's flat weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape import checks
from landscape.batches import Batch
from landscape.bound import CurvatureAt, Remembered
from landscape.choices import FirstThatWorks
from landscape.curvatures import GAUSS_NEWTON, HESSIAN, Curvature
from landscape.dataset import DataSet
from landscape.denominators import Denominator
from landscape.differences import CentralDifferences
from landscape.forward import Forward, supervised
from landscape.losses import Loss
from landscape.manifest import versions
from landscape.parameters import ParameterSpace
from landscape.processes import Sharing
from landscape.products import loss_and_slope, second_derivatives
from landscape.reach import require_readable
from landscape.terms import Definition
from landscape.ways import KeptGraphs, Products
from landscape.work import Work


class Objective:
    """L(w) = Σ_b d_b · loss(model(x_b; w), y_b) / Σ_b d_b, the mean loss over a fixed data set.

    The objective works on copies made here: of the model, in the mode it is in, of the loss, and of the data as they
    are now, on the device of the weights. Data that would take more than a quarter of its free memory are not copied:
    they stay where they are, must be left as they are, and go there chunk by chunk. Where the weights are doubles, what
    the model or the loss casts to float32 stays a double. It never changes the caller's model, its mode, gradients or
    the random state, and gives the same answer to the same question. It is therefore refused, with the reason, when the
    data change from one pass to the next, when the model draws random numbers or couples the examples of a batch
    (training mode with dropout or batch norm), when the loss or ``forward`` reads the caller's model instead of the one
    it is given, and when the means of two batches do not add up.

    Args:
        model: any module; its trainable parameters are w.
        loss: ``loss(outputs, targets)``, a scalar mean over the batch.
        data: batches that can be iterated again: a ``DataLoader``, or a list of batches. In a batch all tensors share
            their first dimension, and a list of what are no tensors, such as texts, has an entry for each example.
        forward: ``forward(model, batch) -> (outputs, targets)``; see :func:`supervised` for the usual one.
        denominator: what the mean of a batch was divided by, ``denominator(outputs, targets)``. Read off the loss when
            it is a cross-entropy (tokens under ``ignore_index``, class weights), examples otherwise; to be given for
            another loss whose targets differ in shape from batch to batch.
        parameters: a pattern that selects the blocks of w by name; the others stay as they are.
        split: what the data are, for the manifest: ``"train"``, ``"test"``.
        products: how products with curvature matrices are computed; when left out, by graphs that are kept while a
            quarter of the memory allows, and by central differences where the model has no second derivative.
        chunk_size: the most examples that go through the model together, as many as are quick when left out.
        sharing: processes that share the work, ``Together()`` under torchrun, each given the same data; every process
            gets the same numbers. This process alone when left out.

    Attributes:
        weights: the model's weights when the objective was made, ``(dim,)``.
        space: the named blocks that make up w.
        population: how many examples the data were drawn from, where they are a :meth:`sample`; else None.

    Raises:
        TypeError: if the data cannot be iterated twice, a batch cannot be read, or the model or loss cannot be copied.
        ValueError: if the model, the loss or the data do not define one deterministic mean, or the weights are not of
            single or double precision.

    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> x, y = torch.randn(5, 2).double(), torch.randn(5, 1).double()
    >>> objective = Objective(model, nn.functional.mse_loss, [(x[:3], y[:3]), (x[3:], y[3:])])
    >>> v = torch.tensor([1.0, -2.0]).double()
    >>> torch.allclose(objective.hvp(objective.weights, v), 2 / 5 * x.T @ x @ v)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Iterable[Batch],
        *,
        forward: Forward = supervised,
        denominator: Denominator | None = None,
        parameters: str = "*",
        split: str = "",
        products: Products | None = None,
        chunk_size: int | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        if products is not None and not isinstance(products, Products):
            raise TypeError(f"products must be a way of computing them, as KeptGraphs(); got {products!r}")
        checks.require_module(model)
        checks.require_reiterable(data)
        checks.require_evaluable_mode(model)
        checks.require_one_device(model, loss)
        self.space = ParameterSpace.of(model).select(parameters)
        self.weights: Tensor = self.space.weights_of(model)
        checks.require_precision(self.weights)
        checks.require_finite(self.weights)
        self._definition = Definition.of(model, loss, forward, denominator, self.space)
        self._pattern, self._split = parameters, split
        self._products = products or FirstThatWorks(KeptGraphs(), CentralDifferences())
        self._certified: set[str] = set()  # kinds of curvature whose products have been checked; shared with the parts
        self._last = Remembered()  # the matrix that was asked for last
        self.population: int | None = None
        self._weight: Tensor | float | None = None  # Σ_b d_b at the weights, once they have been evaluated
        with checks.random_state_kept(self.weights.device):  # a DataLoader draws from it at each pass
            self._data = DataSet.read(data, self.weights.device)
            self._definition = self._definition.without_casts(self.weights, self._data.batches)
            self.work = Work(self._definition, self.weights, self._data.pieces, chunk_size=chunk_size, sharing=sharing)
            seen = checks.require_deterministic(self)
            held = {id(p): name for name, p in model.named_parameters() if name in self.space.names}
            require_readable(self._definition, self.weights, self.batches, held, said=denominator is not None)
            checks.require_additive(self, seen)

    @property
    def num_examples(self) -> int:
        """The number of examples in the data set."""
        return self._data.num_examples

    @property
    def weight(self) -> float:
        """Σ_b d_b, what the mean is divided by at the objective's weights: the examples, for a plain mean."""
        if self._weight is None:
            self.loss(self.weights)
        return float(self._weight or 0)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches, on the device of the weights, or where they were given if they do not fit there."""
        return tuple(self._data.batches)

    @property
    def order(self) -> str:
        """A hash of the order of the examples, which decides what the shards are."""
        return self._data.fingerprint.order

    @property
    def model(self) -> nn.Module:
        """A copy of the model, with the weights it had when the objective was made."""
        return copy.deepcopy(self._definition.seam.model)

    @property
    def loss_function(self) -> Loss:
        """The loss, as it was when the objective was made."""
        return self._definition.loss

    def loss(self, w: Tensor) -> Tensor:
        """L(w), a scalar tensor in the dtype of the weights; not finite where the loss is not."""
        self._require_weights(w)
        with torch.no_grad():  # not inference mode: what a model caches there could not be differentiated later
            terms, like = self.work.loss_terms, (w.new_zeros(()),)
            (loss,), weight = self.work.means(terms, lambda term: (term.loss(w),), like=like)
        self._weight = weight if w is self.weights else self._weight
        return loss

    def differentiable_loss(self, w: Tensor) -> Tensor:
        """L(w) with its autograd graph over all the data at once, for small problems and other tools."""
        self._require_weights(w)
        alone = self.work.of(self.batches)  # a graph does not go from process to process
        with second_derivatives():
            return alone.means(alone.terms, lambda term: (term.loss(w),), like=(w.new_zeros(()),))[0][0]

    def gradient(self, w: Tensor) -> Tensor:
        """∇L(w), shape ``(dim,)``."""
        return self.loss_and_gradient(w)[1]

    def loss_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """L(w), a scalar tensor, and ∇L(w), ``(dim,)``, in one pass over the data."""
        self._require_weights(w)
        leaf, like = w.detach().requires_grad_(), (w.new_zeros(()), w.detach())
        terms = self.work.gradient_terms
        (loss, gradient), weight = self.work.means(terms, lambda term: loss_and_slope(term.loss, leaf), like=like)
        self._weight = weight if w is self.weights else self._weight
        return loss, gradient

    def curvature(self, kind: Curvature, w: Tensor) -> CurvatureAt:
        """A curvature matrix at w, ready for products; it holds the graphs that are kept for them.

        Args:
            kind: ``HESSIAN``, ``GAUSS_NEWTON`` or ``FISHER`` of :mod:`landscape.curvatures`.
            w: weights, ``(dim,)``; a copy of them is taken.
        """
        self._require_weights(w)
        return CurvatureAt(kind, w, self.work, self._products, self._certified)

    def hvp(self, w: Tensor, V: Tensor) -> Tensor:
        """∇²L(w) V, by the way that the objective was given; the first is certified: :mod:`landscape.certificate`.

        The graphs that are kept serve the next product at the same ``w``.

        Args:
            w: weights, ``(dim,)``.
            V: one vector ``(dim,)`` or a block ``(dim, k)``, the shape of what is returned.
        """
        return self._last.at(HESSIAN, w, self.curvature).product(V)

    def ggn_product(self, w: Tensor, V: Tensor) -> Tensor:
        """G(w) V with G = Σ_b d_b J_b' (∂²loss/∂outputs²) J_b / Σ_b d_b, the generalised Gauss-Newton matrix.

        Args:
            w: weights, ``(dim,)``.
            V: one vector ``(dim,)`` or a block ``(dim, k)``, the shape of what is returned.
        """
        return self._last.at(GAUSS_NEWTON, w, self.curvature).product(V)

    def select(self, pattern: str | Sequence[str]) -> Objective:
        """The objective as a function of some blocks of its weights only; the others stay as they are.

        Args:
            pattern: of the names of blocks, such as ``"head.*"``, or a list of their very names.

        Raises:
            ValueError: if nothing matches.
        """
        space = self.space.select(pattern)
        part = space.flatten(self.space.unflatten(self.weights))
        chosen = self._under(dataclasses.replace(self._definition, space=space), part)
        said = pattern if isinstance(pattern, str) else ", ".join(pattern)
        chosen._pattern = said if self._pattern == "*" else f"{said} of {self._pattern}"
        return chosen

    def at(self, w: Tensor) -> Objective:
        """The same objective with other weights of its own, ``(dim,)``."""
        self._require_weights(w)
        return self._under(self._definition.with_weights(w), w.detach().clone())

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Objective:
        """The same objective with other numbers in some buffers of its model, by name: statistics of batch norm."""
        return self._under(self._definition.with_buffers(buffers), self.weights)

    def part(self, batches: Sequence[Batch]) -> Objective:
        """The objective of the same model and loss over other batches, taken as they are.

        Args:
            batches: batches of this objective, or parts of them, wherever they are.
        """
        part = copy.copy(self)
        part._data = DataSet(batches)
        part.work = self.work.of(part.batches)
        part._last, part._weight, part.population = Remembered(), None, None
        return part

    def sample(self, size: int, *, seed: int) -> Objective:
        """The objective over some of the examples, drawn without replacement; it knows how many there are in all.

        What is measured on it is an estimate for all of them; slices then have standard errors.

        Raises:
            TypeError: if size or seed is not an integer.
            ValueError: if the size is not between 1 and the number of examples.
        """
        sample = self.part(self._data.sample(size, seed=seed))
        sample.work = self.work.of(sample.batches, sharing=self.work.sharing)
        sample.population = self.num_examples if self.population is None else self.population
        return sample

    def shards(self, size: int) -> Iterator[Objective]:
        """The objectives of consecutive parts of ``size`` examples each, in their order; the last has what is left.

        Raises:
            TypeError: if the size is not an integer.
            ValueError: if the size is not between 1 and the number of examples.
        """
        return (self.part(batches) for batches in self._data.shards(size))

    def manifest(self) -> dict[str, Any]:
        """Where a number measured on this objective comes from: everything that could change it, and the versions.

        Functions are named with their settings and a hash of their code: best effort, see :mod:`landscape.identity`.
        """
        return {
            "objective": {
                **self._definition.settings(),
                "split": self._split,
                "num_examples": self.num_examples,
                **({} if self.population is None else {"sample_of": self.population}),
                "data": self._data.fingerprint.content,
                "batch_norm": "frozen running statistics",
                "parameters": self._pattern,
                "dim": self.space.dim,
                "dtype": str(self.weights.dtype).removeprefix("torch."),
            },
            "subject": self._definition.subject(self.weights),
            "machine": {"device": str(self.weights.device), **versions()},
        }

    def _under(self, definition: Definition, weights: Tensor) -> Objective:
        other = copy.copy(self)
        other.space, other.weights, other._definition = definition.space, weights, definition
        other._certified, other._last, other._weight = set(), Remembered(), None
        other.work = self.work.by(definition, weights)
        return other

    def _require_weights(self, w: Tensor) -> None:
        checks.require_like(w, self.weights, "w")
