"""Layers of a copy of a network that are given the same at every point: what they compute is affine in the point."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.batches import Batch, bytes_of_example, num_examples, take, tensors
from landscape.checks import HEAD
from landscape.folding import LAYERS
from landscape.parameters import ParameterSpace
from landscape.terms import Term

KEPT_BYTES = 2**29  # that what is kept for all first layers may take; the same everywhere, as it decides roundings
_LEAST = 32  # inputs to an output, from which adding what is kept is quicker than multiplying


class _Kept(NamedTuple):
    """What a layer was given for a term, and what it makes of that with the weights at w and with each direction's."""

    given: Tensor
    outputs: list[Tensor]


class FirstLayer:
    """A layer whose input hangs on no weight, with the output A + Σ c_i B_i at the point w + Σ c_i d_i.

    A is the output at w, and B_i what the layer makes of the same input with its part of d_i for weights. Both are
    computed once for each term and kept: a point costs additions in place of products. Where it is given something else
    after all, as in the second of two calls, it multiplies as it did.

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
        self._layer, self._weights = layer, weights
        self._convolve: Callable[..., Tensor] = getattr(layer, "_conv_forward", functional.linear)
        self._kept: weakref.WeakKeyDictionary[Term, _Kept] = weakref.WeakKeyDictionary()
        self._rows: weakref.WeakKeyDictionary[Term, tuple[tuple[float, ...], Tensor]] = weakref.WeakKeyDictionary()
        vars(layer)["forward"] = self._forward  # beside the method of the class, so that hooks go on being called

    def _forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # else it would be compiled anew for every term and point
            return self._convolve(x, self._layer.weight, self._layer.bias)
        assert self.term is not None
        kept = self._kept.get(self.term)
        if kept is None:
            given = x if _storage(x) in _storages(self.term.batch) else x.clone()  # which the network may write over
            kept = self._kept[self.term] = _Kept(given, [self._convolve(x, *each) for each in self._weights])
        elif not _is_same(x, kept.given):
            return self._convolve(x, self._layer.weight, self._layer.bias)
        return torch.add(self._row(self.term, kept.outputs), kept.outputs[1], alpha=self.coordinates[0])

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


def layers_given_data(seam: nn.Module, batch: Batch) -> dict[nn.Module, tuple[int, int]]:
    """The layers of a copy of a network that are called once, with what hangs on no weight.

    They are found in one pass over a few examples: what is computed from a weight has a gradient, or, where the network
    cuts the graph or chooses examples by what it finds, has been made of what was made of one. None are found in a
    network that has no gradient.

    Returns:
        For each the bytes of its output for those examples, and of its input where that is not the data themselves.
    """
    head = take(batch, 0, HEAD)
    calls: list[tuple[nn.Module, bool, tuple[int, int]]] = []
    data = _storages(head)
    touched = _Touched(list(seam.parameters()))

    def look(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        x, own = given[0], layer.weight is weights[layer] and given[0].numel() > 0
        size = output.nbytes, 0 if _storage(x) in data else x.nbytes
        calls.append((layer, own and not x.requires_grad and not touched.has(x), size))

    weights = {each: each.weight for each in seam.modules() if _can_be_kept(each)}
    hooks = [each.register_forward_hook(look) for each in weights]
    frozen = [parameter for parameter in seam.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad(), touched:
            seam(head)
    except Exception:  # whatever a network raises that cuts its graph, or writes over its weights
        return {}
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    number = Counter(layer for layer, _, _ in calls)
    return {layer: size for layer, serves, size in calls if number[layer] == 1 and serves}


def first_layers(
    seam: nn.Module,
    found: Mapping[nn.Module, tuple[int, int]],
    batches: Sequence[Batch],
    space: ParameterSpace,
    points: Sequence[Tensor],
) -> list[FirstLayer]:
    """Layers that are given the same at every point, made to add up what is kept.

    There are none where that would take more than :data:`KEPT_BYTES`.

    Args:
        seam: the copy.
        found: of its layers by :func:`layers_given_data`, with their bytes for the first examples of the first batch.
        batches: the data.
        space: of the model's weights.
        points: w and the directions, each ``(dim,)``.
    """
    if not found:
        return []
    head = take(batches[0], 0, HEAD)
    examples = sum(num_examples(batch) * bytes_of_example(batch) for batch in batches) / bytes_of_example(head)
    copies = len(points) + (len(points) > 2)  # a row as well
    each = sum(output * copies + given for output, given in found.values()) / num_examples(head)
    if each * examples > KEPT_BYTES:
        return []
    names = {id(parameter): name.removeprefix("model.") for name, parameter in seam.named_parameters()}
    blocks = [space.unflatten(point) for point in points]
    return [FirstLayer(layer, _weights(layer, names, blocks)) for layer in found]


def _can_be_kept(module: Any) -> bool:
    """Whether a module is a layer with parameters of its own, computed as its class does, and large enough."""
    if type(module) not in LAYERS or "forward" in vars(module):
        return False
    own = dict(module.named_parameters(recurse=False))
    if "weight" not in own or ("bias" not in own and module.bias is not None):
        return False
    return bool(len(own["weight"])) and own["weight"][0].numel() >= _LEAST


class _Touched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is computed from some tensors, by where it lies in memory: views, and what is written over, too."""

    def __init__(self, sources: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = list(sources)  # so that nothing else comes to lie there
        self._places = {_storage(source) for source in sources}

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from them."""
        return _storage(tensor) in self._places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(self.has(read) for read in tensors([args, kwargs or {}])):
            made = [tensor for tensor in tensors([found]) if tensor.numel()]
            self._kept += made
            self._places |= {_storage(tensor) for tensor in made}
        return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _storages(batch: Batch) -> set[int]:
    return {_storage(tensor) for tensor in tensors(batch)}


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers, most often because they lie in the same place."""
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        return False
    alike = first.data_ptr() == second.data_ptr() and first.stride() == second.stride()
    return alike or torch.equal(first, second)


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
