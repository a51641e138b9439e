"""Buffers after the micro-batches of several processes, as if one process had seen them all in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningBuffers:
    """The floating-point buffers of a module, before a step and after it.

    A running batch-norm statistic r follows r ← (1−μ) r + μ s_i over the micro-batches i, or their plain mean where the
    momentum μ is None. A block of k of them maps r to (1−μ)^k r + S, so that the blocks of several processes, all
    begun at the same r, can be put one after another.

    Args:
        module: the model, before the step; None has no buffers.
    """

    def __init__(self, module: nn.Module | None) -> None:
        modules = [] if module is None else list(module.modules())
        self.layers = [m for m in modules if isinstance(m, _NormBase) and m.num_batches_tracked is not None]
        owned = {id(b) for layer in self.layers for b in (layer.running_mean, layer.running_var)}
        every = [] if module is None else list(module.buffers())
        self.others = [b for b in every if b.is_floating_point() and id(b) not in owned]
        self.counts = [int(layer.num_batches_tracked) for layer in self.layers]  # type: ignore[arg-type]
        self.before = [buffer.detach().clone() for buffer in self._statistics]

    @property
    def _statistics(self) -> list[Tensor]:
        return [b for layer in self.layers for b in (layer.running_mean, layer.running_var) if b is not None]

    def row(self, like: Tensor) -> Tensor:
        """What became of them here, as one vector: batches counted by each layer, statistics, other buffers."""
        counted = [int(layer.num_batches_tracked) - n for layer, n in zip(self.layers, self.counts, strict=True)]  # type: ignore[arg-type]
        parts = [torch.tensor(counted, dtype=like.dtype, device=like.device), *self._statistics, *self.others]
        return torch.cat([part.detach().to(like).flatten() for part in parts])

    def compose(self, rows: Sequence[Tensor]) -> None:
        """Put the buffers where the blocks of all processes, in this order, take them; the last one is not empty."""
        shapes = [b.shape for b in [*self._statistics, *self.others]]
        lengths = [len(self.layers), *(shape.numel() for shape in shapes)]
        split = [torch.split(row, lengths) for row in rows]
        for place, layer in enumerate(self.layers):
            counts = [round(float(pieces[0][place])) for pieces in split]
            for index, buffer in ((2 * place, layer.running_mean), (2 * place + 1, layer.running_var)):
                ends = [pieces[1 + index].reshape(shapes[index]) for pieces in split]
                assert buffer is not None
                buffer.detach().copy_(_composed(layer.momentum, self.counts[place], self.before[index], counts, ends))
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.fill_(self.counts[place] + sum(counts))
        for buffer, piece in zip(self.others, split[-1][1 + len(self.before) :], strict=True):
            buffer.detach().copy_(piece.reshape(buffer.shape))


def _composed(momentum: float | None, n0: int, start: Tensor, counts: Sequence[int], ends: Sequence[Tensor]) -> Tensor:
    """One statistic, begun at ``start`` after n0 batches, when each block of k batches took it to its end."""
    value, n = start, n0
    for k, end in zip(counts, ends, strict=True):
        if k == 0:
            continue
        kept, own, twice = (
            (n / (n + k), (n0 + k) / (n + k), n0 / (n + k))
            if momentum is None
            else ((1 - momentum) ** k, 1.0, (1 - momentum) ** k)
        )
        value = end if n == n0 else kept * value + own * end - twice * start
        n += k
    return value
