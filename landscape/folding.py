"""What a copy of a network need not compute or store again at each point: batch norms folded, ReLU in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.batches import Batch, map_tensors, take
from landscape.checks import HEAD

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # these very classes: another forward is another function
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Fold:
    """A layer and the batch norm after it, computed as one layer with W ← W γ/σ and b ← β + (b − μ) γ/σ.

    Both modules change: the layer computes the two, and the norm passes on what it is given.

    Args:
        layer: convolution or linear layer.
        norm: batch norm in evaluation mode.
        channels_last: how the weights of two-dimensional convolutions lie in memory.
    """

    def __init__(self, layer: Any, norm: Any, *, channels_last: bool) -> None:
        self.layer, self.norm = layer, norm
        self._inverse: Tensor = (norm.running_var + norm.eps).rsqrt()
        self.weight: Tensor = torch.empty_like(layer.weight)
        if channels_last and self.weight.ndim == 4:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.bias: Tensor | None = None
        convolve: Callable[..., Tensor] = getattr(layer, "_conv_forward", functional.linear)
        # beside the methods of the class, so that hooks go on being called
        vars(layer)["forward"] = lambda x: convolve(x, self.weight, self.bias)
        vars(norm)["forward"] = lambda x: x

    def refresh(self) -> None:
        """Take in the weights as they are now."""
        norm, layer = self.norm, self.layer
        scale = self._inverse if norm.weight is None else norm.weight * self._inverse
        torch.mul(layer.weight, scale.view(-1, *[1] * (self.weight.ndim - 1)), out=self.weight)
        shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        self.bias = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)


def folds(seam: nn.Module, batch: Batch, *, channels_last: bool) -> list[Fold]:
    """The batch norms of a network that are the only reader of the layer before them, each folded into that.

    They are found in one pass over a few examples; whether the network is still the same is for the caller to check.
    """
    if not any(isinstance(module, _NORMS) for module in seam.modules()):
        return []
    found = []
    for layer, norm, out in _pairs(seam, batch, LAYERS, _NORMS):
        by_output = not isinstance(layer, nn.Linear) or out.ndim == 2  # else the channels are not the outputs
        if by_output and not norm.training and getattr(norm, "running_mean", None) is not None:
            found.append(Fold(layer, norm, channels_last=channels_last))
    return found


def rectify_in_place(seam: nn.Module, batch: Batch) -> None:
    """Let each ReLU write over the output of a layer or a norm that nothing else reads.

    As for :func:`folds`, the caller has to check; data and weights are never written over.
    """
    if any(isinstance(module, nn.ReLU) and not module.inplace for module in seam.modules()):
        for _, activation, _ in _pairs(seam, batch, (*LAYERS, *_NORMS), (nn.ReLU,)):
            activation.inplace = True


def _pairs(
    seam: nn.Module, batch: Batch, before: tuple[type[nn.Module], ...], after: tuple[type[nn.Module], ...]
) -> list[tuple[Any, Any, Tensor]]:
    """Modules of some classes that are called once each, the second the only reader of what the first gives."""
    makers: list[tuple[nn.Module, Tensor]] = []
    takers: list[tuple[nn.Module, Tensor]] = []
    hooks = []
    for module in seam.modules():
        if type(module) in before:
            hooks.append(module.register_forward_hook(lambda layer, _, out: makers.append((layer, out))))
        elif type(module) in after:
            hooks.append(module.register_forward_pre_hook(lambda layer, given: takers.append((layer, given[0]))))
    try:
        with torch.no_grad(), _Readers() as readers:
            seam(take(batch, 0, HEAD))
    finally:
        for hook in hooks:
            hook.remove()
    calls = Counter(id(module) for module, _ in (*makers, *takers))
    made = {id(out): (layer, out) for layer, out in makers}
    found = []
    for second, given in takers:
        first, out = made.get(id(given), (None, None))
        if first is None or out is None or calls[id(first)] > 1 or calls[id(second)] > 1:
            continue
        if readers.number[id(out)] == 1:
            found.append((first, second, out))
    return found


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that read each tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number: Counter[int] = Counter()
        self._kept: list[Tensor] = []  # so that no other tensor takes the place of one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read: list[Tensor] = []
        map_tensors(read.append, [args, kwargs or {}])
        self._kept += read
        self.number.update({id(tensor) for tensor in read})
        return func(*args, **(kwargs or {}))
