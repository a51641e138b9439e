"""What a loss reads, seen on a few examples of each batch: the weights it is given, and targets of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.batches import Batch, take, tensors
from landscape.checks import HEAD
from landscape.denominators import examples
from landscape.recomputed import RECOMPUTES, hides_weights, nodes_of
from landscape.terms import Definition, Term


def require_readable(
    definition: Definition, w: Tensor, batches: Sequence[Batch], held: Mapping[int, str], *, said: bool
) -> None:
    """The loss must read the weights it is given, and say what its mean is divided by where ``said`` does not.

    The arguments are those of :func:`require_given_weights`.
    """
    terms = require_given_weights(definition, w, batches, held)
    if not said and definition.denominator is examples:
        require_shape_of_targets(terms, w)


def require_given_weights(
    definition: Definition, w: Tensor, batches: Sequence[Batch], held: Mapping[int, str]
) -> list[Term]:
    """The loss must reach the weights through the model that ``forward`` is given, and not through the caller's.

    Args:
        definition: what is checked.
        w: where, ``(dim,)``.
        batches: the first examples of each are looked at.
        held: the name of each weight of the caller's model by its ``id``.

    Returns:
        The terms of those examples, evaluated.

    Raises:
        ValueError: naming a weight that is read from the caller's model; it would count as a constant. So would those
            in a reentrant checkpoint.
    """
    terms = []
    for batch in batches:
        term = Term(definition, take(batch, 0, HEAD))
        with torch.enable_grad():
            value = term.loss(w.detach().requires_grad_())
        if hides_weights(value):
            raise ValueError(RECOMPUTES)
        for leaf in _leaves(value):
            if id(leaf) in held:
                raise ValueError(
                    f"the loss reads {held[id(leaf)]!r} from the model itself and not from the copy that `forward` is "
                    "given, so that its part in the loss would count as constant. Let `forward` call the model in its "
                    "argument; what else depends on the weights, a penalty, it can return among the outputs."
                )
        terms.append(term)
    return terms


def require_shape_of_targets(terms: Sequence[Term], w: Tensor) -> None:
    """Where the loss is not known, examples of several shapes do not say what its mean is divided by.

    A mean over the entries of an example, and a mean over examples, are the same number in each batch of one shape.

    Raises:
        ValueError: naming two shapes, and the way out.
    """
    shapes: list[Any] = []
    for term in terms:
        found = tensors(term.targets)
        if not found:
            with torch.no_grad():
                found = tensors(term.outputs(w))
        shape = [tuple(tensor.shape[1:]) for tensor in found]
        if shapes and shape != shapes[-1]:
            raise ValueError(
                f"the targets of two batches have examples of different shapes ({_words(shapes[-1])} and "
                f"{_words(shape)}), and this loss does not say what its mean is divided by. Pass denominator=lambda "
                "outputs, targets: targets.numel() for a mean over entries, or len(targets) for one over examples."
            )
        shapes.append(shape)


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors that a value was computed from and that take gradients."""
    leaves = (getattr(node, "variable", None) for node in nodes_of(value))
    return [leaf for leaf in leaves if leaf is not None]


def _words(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(shape) for shape in shapes)
