"""Layers of a copy of a network that are given the same at every point: what they compute is affine in the point."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.batches import Batch, bytes_of_example, num_examples, take
from landscape.checks import HEAD
from landscape.folding import LAYERS
from landscape.parameters import ParameterSpace
from landscape.terms import Term

KEPT_BYTES = 2**29  # that the outputs of all first layers may take; the same everywhere, as it decides roundings
_LEAST = 32  # inputs to an output, from which adding what is kept is quicker than multiplying


class FirstLayer:
    """A layer whose input hangs on no weight, with the output A + Σ c_i B_i at the point w + Σ c_i d_i.

    A is the output at w, and B_i what the layer makes of the same input with its part of d_i for weights. Both are
    computed once for each term and kept: a point costs additions in place of products.

    Args:
        layer: a linear layer or a convolution; its forward is replaced.
        weights: its weight and bias at w, and its part of each direction.

    Attributes:
        term: what the next call is for.
        coordinates: where the next call is.
    """

    def __init__(self, layer: Any, weights: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        self.term: Term | None = None
        self.coordinates: Sequence[float] = ()
        self._weights = weights
        self._convolve: Callable[..., Tensor] = getattr(layer, "_conv_forward", functional.linear)
        self._kept: weakref.WeakKeyDictionary[Term, list[Tensor]] = weakref.WeakKeyDictionary()
        self._rows: weakref.WeakKeyDictionary[Term, tuple[tuple[float, ...], Tensor]] = weakref.WeakKeyDictionary()
        vars(layer)["forward"] = self._forward  # beside the method of the class, so that hooks go on being called

    def _forward(self, x: Tensor) -> Tensor:
        assert self.term is not None
        kept = self._kept.get(self.term)
        if kept is None:
            kept = self._kept[self.term] = [self._convolve(x, *each) for each in self._weights]
        return torch.add(self._row(self.term, kept), kept[1], alpha=self.coordinates[0])

    def _row(self, term: Term, kept: list[Tensor]) -> Tensor:
        """The sum without the first direction, which stays the same for all points of a row."""
        others = tuple(self.coordinates[1:])
        if not others:
            return kept[0]
        known = self._rows.get(term)
        if known is None or known[0] != others:
            row = kept[0]
            for value, output in zip(others, kept[2:], strict=True):
                row = torch.add(row, output, alpha=value)
            known = self._rows[term] = others, row
        return known[1]


def first_layers(
    seam: nn.Module,
    batches: Sequence[Batch],
    space: ParameterSpace,
    points: Sequence[Tensor],
    *,
    other_than: Collection[nn.Module],
) -> list[FirstLayer]:
    """The layers of a network that are called once, with what hangs on no weight.

    They are found by autograd in one pass over a few examples; whether the network is still the same, as where it cuts
    the graph, is for the caller to check. There are none where their outputs would take more than :data:`KEPT_BYTES`.

    Args:
        seam: the copy.
        batches: the data.
        space: of the model's weights.
        points: w and the directions, each ``(dim,)``.
        other_than: layers that compute something else already.
    """
    if not batches:
        return []
    head = take(batches[0], 0, HEAD)
    found = _found(seam, head, [each for each in seam.modules() if type(each) in LAYERS and each not in other_than])
    examples = sum(num_examples(batch) * bytes_of_example(batch) for batch in batches) / bytes_of_example(head)
    copies = len(points) + (len(points) > 2)  # a row as well
    if sum(found.values()) / num_examples(head) * examples * copies > KEPT_BYTES:
        return []
    names = {id(parameter): name.removeprefix("model.") for name, parameter in seam.named_parameters()}
    blocks = [space.unflatten(point) for point in points]
    return [FirstLayer(layer, _weights(layer, names, blocks)) for layer in found]


def _found(seam: nn.Module, head: Batch, candidates: Sequence[Any]) -> dict[nn.Module, int]:
    """Those layers with the bytes of their outputs for a few examples; none of a network that has no gradient."""
    calls: list[tuple[nn.Module, bool, int]] = []

    def look(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, given[0].requires_grad, output.nbytes))

    plain = [each for each in candidates if "weight" in dict(each.named_parameters(recurse=False))]
    hooks = [each.register_forward_hook(look) for each in plain if each.weight[0].numel() >= _LEAST]
    frozen = [parameter for parameter in seam.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            seam(head)
    except Exception:  # whatever a network raises that cuts its graph, or writes over its weights
        return {}
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    number = Counter(layer for layer, _, _ in calls)
    return {layer: size for layer, hangs, size in calls if number[layer] == 1 and not hangs}


def _weights(
    layer: Any, names: Mapping[int, str], blocks: Sequence[Mapping[str, Tensor]]
) -> list[tuple[Tensor, Tensor | None]]:
    """The weight and bias of a layer at w, and its part of each direction, which is zero where it stays as it is."""
    weight, bias = names[id(layer.weight)], None if layer.bias is None else names[id(layer.bias)]
    at_w, *along = blocks
    return [
        (at_w.get(weight, layer.weight), None if bias is None else at_w.get(bias, layer.bias)),
        *(
            (d[weight] if weight in d else torch.zeros_like(layer.weight), None if bias is None else d.get(bias))
            for d in along
        ),
    ]
