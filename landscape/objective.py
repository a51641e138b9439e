"""The loss of a model over a data set as a pure function of the model's flat weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape import checks
from landscape.arguments import integer
from landscape.batches import Batch, Fingerprint, map_tensors, num_examples, regroup
from landscape.certificate import GGN, HESSIAN, Curvature, certify
from landscape.denominators import Denominator, examples
from landscape.forward import Forward, supervised
from landscape.identity import name_of
from landscape.manifest import hash_of_settings, hash_of_tensor, versions
from landscape.parameters import ParameterSpace
from landscape.products import ggn_product, hessian_product, second_derivatives, slope_of
from landscape.reach import require_given_weights, require_shape_of_targets
from landscape.terms import Definition, Loss, Mean, Term


class Objective:
    """L(w) = Σ_b d_b · loss(model(x_b; w), y_b) / Σ_b d_b, the mean loss over a fixed data set.

    The objective works on copies made here: of the model, in the mode it is in, of the loss, and of the data as they
    are now, on the device of the weights. It never changes the caller's model, its mode, gradients or the random state,
    and gives the same answer to the same question. It is therefore refused, with the reason, when the data change
    from one pass to the next, when the model draws random numbers or couples the examples of a batch
    (training mode with dropout or batch norm), when the loss or ``forward`` reads the caller's model instead of the one
    it is given, and when the means of two batches do not add up.

    Args:
        model: any module; its trainable parameters are w.
        loss: ``loss(outputs, targets)``, a scalar mean over the batch.
        data: batches that can be iterated again: a ``DataLoader``, or a list of batches.
        forward: ``forward(model, batch) -> (outputs, targets)``; see :func:`supervised` for the usual one.
        denominator: what the mean of a batch was divided by, ``denominator(outputs, targets)``. Read off the loss when
            it is a cross-entropy (tokens under ``ignore_index``, class weights), examples otherwise; to be given for
            another loss whose targets differ in shape from batch to batch.
        parameters: a pattern that selects the blocks of w by name; the others stay as they are.
        split: what the data are, for the manifest: ``"train"``, ``"test"``.

    Attributes:
        weights: the model's weights when the objective was made, ``(dim,)``.
        space: the named blocks that make up w.

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
    ) -> None:
        checks.require_module(model)
        checks.require_reiterable(data)
        checks.require_evaluable_mode(model)
        self.space = ParameterSpace.of(model).select(parameters)
        named = dict(model.named_parameters())
        self.weights: Tensor = self.space.flatten({name: named[name].detach() for name in self.space.names})
        checks.require_precision(self.weights)
        checks.require_finite(self.weights)
        self._definition = Definition.of(model, loss, forward, denominator, self.space)
        self._pattern = parameters
        self._split = split
        self._certified: set[str] = set()  # kinds of curvature whose products have been checked; shared with the parts
        self._weight: Tensor | float | None = None  # Σ_b d_b at the weights, once they have been evaluated
        with checks.random_state_kept(self.weights.device):  # a DataLoader draws from it at each pass
            self._batches, self._fingerprint = self._read(data)  # (list of batches, what they contain)
            losses = checks.require_deterministic(self)
            held = {id(named[name]): name for name in self.space.names}
            terms = require_given_weights(self._definition, self.weights, self._batches, held)
            if denominator is None and self._definition.denominator is examples:
                require_shape_of_targets(terms, self.weights)
            checks.require_additive(self, losses)

    @property
    def num_examples(self) -> int:
        """The number of examples in the data set."""
        return sum(num_examples(batch) for batch in self._batches)

    @property
    def weight(self) -> float:
        """Σ_b d_b, what the mean is divided by at the objective's weights: the examples, for a plain mean."""
        if self._weight is None:
            self.loss(self.weights)
        return float(self._weight or 0)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches, on the device of the weights."""
        return tuple(self._batches)

    @property
    def order(self) -> str:
        """A hash of the order of the examples, which decides what the shards are."""
        return self.fingerprint.order

    @property
    def fingerprint(self) -> Fingerprint:
        """What the data are."""
        if self._fingerprint is None:
            self._fingerprint = Fingerprint.of(self._batches)
        return self._fingerprint

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
            return self._mean(lambda term: term.loss(w), remember=w is self.weights)

    def differentiable_loss(self, w: Tensor) -> Tensor:
        """L(w) with its autograd graph over all the data at once, for small problems and other tools."""
        self._require_weights(w)
        with second_derivatives():
            return self._mean(lambda term: term.loss(w))

    def gradient(self, w: Tensor) -> Tensor:
        """∇L(w), shape ``(dim,)``."""
        return self.loss_and_gradient(w)[1]

    def loss_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """L(w), a scalar tensor, and ∇L(w), ``(dim,)``, in one pass over the data."""
        self._require_weights(w)
        loss, gradient = Mean(), Mean()
        leaf = w.detach().requires_grad_()
        for term in self._terms():
            with torch.enable_grad():
                value = term.loss(leaf)
                slope = slope_of(value, leaf)
            loss.add(value.detach(), term.count)
            gradient.add(slope, term.count)
        if w is self.weights:
            self._weight = loss.weight
        return loss.value.to(w.dtype), gradient.value

    def hvp(self, w: Tensor, V: Tensor) -> Tensor:
        """∇²L(w) V by double backward; one gradient graph per batch serves all columns of V.

        The first product is certified: see :mod:`landscape.certificate`.

        Args:
            w: weights, ``(dim,)``.
            V: one vector ``(dim,)`` or a block ``(dim, k)``.

        Returns:
            A tensor of the shape of ``V``.
        """
        self._require_weights(w)
        columns = self._columns(V)
        self._require_certified(HESSIAN)
        return self._mean(lambda term: hessian_product(term.loss, w, columns)).reshape(V.shape)

    def ggn_product(self, w: Tensor, V: Tensor) -> Tensor:
        """G(w) V with G = Σ_b d_b J_b' (∂²loss/∂outputs²) J_b / Σ_b d_b, the generalised Gauss-Newton matrix.

        Args:
            w: weights, ``(dim,)``.
            V: one vector ``(dim,)`` or a block ``(dim, k)``.

        Returns:
            A tensor of the shape of ``V``.
        """
        self._require_weights(w)
        columns = self._columns(V)
        self._require_certified(GGN)
        return self._mean(lambda term: ggn_product(term.outputs, term.loss_of_outputs, w, columns)).reshape(V.shape)

    def part(self, batches: Sequence[Batch]) -> Objective:
        """The objective of the same model and loss over other batches, taken as they are.

        Args:
            batches: batches of this objective, or parts of them, on the device of the weights.
        """
        part = copy.copy(self)
        part._batches = list(batches)
        part._fingerprint = None
        part._weight = None
        return part

    def shards(self, size: int) -> Iterator[Objective]:
        """The objectives of consecutive parts of ``size`` examples each, in the order of the data.

        The last shard has what is left.

        Raises:
            TypeError: if the size is not an integer.
            ValueError: if the size is not between 1 and the number of examples.
        """
        size = integer(size, "the size of a shard")
        if not 1 <= size <= self.num_examples:
            raise ValueError(f"a shard must have 1 to {self.num_examples} examples, all there are; got {size}")
        return (self.part([batch]) for batch in regroup(self._batches, size))

    def manifest(self) -> dict[str, Any]:
        """Where a number measured on this objective comes from: everything that could change it, and the versions.

        Losses, denominators and ``forward`` are named with their settings and, unless torch wrote them, a hash of their
        code and of what they capture: best effort, see :mod:`landscape.identity`.
        """
        model = self._definition.seam.model
        return {
            "objective": {
                "loss": name_of(self._definition.loss),
                "reduction": f"mean over {name_of(self._definition.denominator)}",
                "forward": name_of(self._definition.seam.read),
                "split": self._split,
                "num_examples": self.num_examples,
                "data": self.fingerprint.content,
                "mode": "training" if model.training else "evaluation",
                "batch_norm": "frozen running statistics",
                "architecture": hash_of_settings({"modules": repr(model)}),
                "parameters": self._pattern,
                "dim": self.space.dim,
                "dtype": str(self.weights.dtype).removeprefix("torch."),
            },
            "subject": {
                "model": type(model).__name__,
                "weights": hash_of_tensor(self.weights),
                "fixed": self._definition.hash_of_fixed(),
            },
            "machine": {"device": str(self.weights.device), **versions()},
        }

    def _read(self, data: Iterable[Batch]) -> tuple[list[Batch], Fingerprint | None]:
        device = self.weights.device
        copies = (map_tensors(lambda tensor: tensor.detach().to(device, copy=True), batch) for batch in data)
        batches = [batch for batch in copies if num_examples(batch) > 0]  # a mean over no example is not a number
        fingerprint = Fingerprint.of(batches)
        checks.require_same_data(fingerprint, Fingerprint.of(data))
        return batches, fingerprint

    def _terms(self) -> Iterator[Term]:
        return (Term(self._definition, batch) for batch in self._batches)

    def _mean(self, of_term: Callable[[Term], Tensor], *, remember: bool = False) -> Tensor:
        mean = Mean()
        for term in self._terms():
            value = of_term(term)  # before the count, which it sets
            mean.add(value, term.count)
        if remember:
            self._weight = mean.weight
        return mean.value.to(self.weights.dtype)

    def _require_certified(self, curvature: Curvature) -> None:
        if curvature.name not in self._certified:
            certify(curvature, self._definition, self.weights, self._batches)
            self._certified.add(curvature.name)

    def _columns(self, V: Tensor) -> Tensor:
        checks.require_like(V, self.weights, "V", columns=True)
        return V.reshape(self.space.dim, -1)

    def _require_weights(self, w: Tensor) -> None:
        checks.require_like(w, self.weights, "w")
