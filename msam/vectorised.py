"""All micro-batches of a step at once, by vectorising the closure over stacks of weights."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from landscape.arguments import integer
from landscape.batches import Batch, has_lists, map_tensors, take, tensors
from landscape.layers import UnsupportedError
from landscape.memory import graph_measured
from landscape.stacks import Ascent, Stacks
from msam.averages import all_finite, averaged, not_shared, weighted_mean
from msam.execution import Execution
from msam.guarded import SPLITS, Guarded, ascent_of, module_of, require_plain, split_of
from msam.replay import RandomState, buffers_kept
from msam.step import FINITE, Gradient, Outcome, Step

COPIES = 3  # of the weights per micro-batch: the gradient that becomes the perturbed copy, that of the copy, a scratch
OF_SAM = 4  # times the weights that a step of SAM holds: they, the momentum, their copy and a gradient


class Vectorised(Guarded):
    """Both passes of many micro-batches at once, through ``torch.func``, with a copy of the weights for each of them.

    It serves ``GradientAscent`` and ``AdaptiveAscent`` on every model and closure that ``torch.func.vmap`` can take;
    nothing is known of the layers. Models that change buffers or draw random numbers are not taken, since each
    micro-batch has its own.

    Args:
        memory: bytes that copies of the weights may take; when left out, half of what a step of SAM on the same
            examples takes, measured on a micro-batch, and where that is too little for two of them, as in small models,
            all are left to the other execution, which is then quicker. As many micro-batches go at once as fit, and one
            at least; at most half of them, since vectorised code keeps more of what it computes.
        otherwise: the execution to fall back on and to be held against, ``OneByOne()`` when left out.
        check_every: steps between two comparisons.

    Raises:
        ValueError: if the memory is not positive.
    """

    manner = "all at once with torch.func"

    def __init__(
        self, *, memory: int | None = None, otherwise: Execution | None = None, check_every: int = 1000
    ) -> None:
        super().__init__(otherwise=otherwise, check_every=check_every)
        if memory is not None and integer(memory, "memory") < 1:
            raise ValueError(f"memory must be a positive number of bytes; got {memory}")
        self.memory = memory
        self._forget()

    def _forget(self) -> None:
        self._measured: dict[tuple[object, ...], int] = {}  # what copies may take, where memory is None

    def _all_at_once(self, step: Step, before: RandomState) -> Outcome:
        setting = _Setting(step)
        chunks: list[_Chunk] = []
        gradient: Gradient = []
        shares: list[float] = []
        room, half = self.memory, (len(step.own) + 1) // 2
        if room is None:
            room = self._half_of_sam(step, setting, before)
            if room < min(2, half) * COPIES * setting.num_bytes:
                return self.otherwise.outcome(step)
        most = min(room // (COPIES * setting.num_bytes), half)
        for number, size, batch in _parts(step, most):
            chunk = _Chunk(setting, batch, number, size)
            if not chunk.averages:
                return self.otherwise.outcome(step)
            if not before.is_current:
                raise UnsupportedError("the model draws random numbers, and each micro-batch has its own")
            if setting.changed:
                raise UnsupportedError("the model changes its buffers, as each micro-batch does in turn")
            slopes = chunk.gradient()
            shares.append(float(chunk.shares.sum()))
            gradient = averaged(gradient, slopes, shares)
            chunk.clear()
            chunks.append(chunk)
        loss = weighted_mean([chunk.loss for chunk in chunks], shares)
        finite = FINITE if step.scale is None else all_finite(gradient)  # which no overflow of the first pass leaves
        return Outcome(loss, gradient, sum(shares), chunks[0].reports, finite)

    def _half_of_sam(self, step: Step, setting: _Setting, before: RandomState) -> int:
        """What copies may take; found by a pass that leaves neither buffers nor the random state changed."""
        key = (setting.num_bytes, split_of(step))
        if key not in self._measured:
            start, size = sum(step.sizes[: step.own.start]), step.sizes[step.own.start]
            there = [*step.parameters, *tensors(step.batch)]
            with buffers_kept(setting.module), graph_measured(without=there) as graph:
                loss = step.loss(take(step.batch, start, start + size))
            del loss  # with its graph, which is complete until here
            before.restore()
            setting.note_buffers()  # which have been put back
            weights = sum(p.nbytes for p in step.parameters)
            if len(self._measured) > SPLITS:
                self._measured.clear()
            self._measured[key] = (graph.num_bytes * step.num_own_examples // size + OF_SAM * weights) // 2
        return self._measured[key]

    def __repr__(self) -> str:
        return "Vectorised()" if self.memory is None else f"Vectorised(memory={self.memory})"


class _Setting:
    """What the chunks of a step share."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.module = module_of(step)
        require_plain(self.module)
        if has_lists(step.batch):
            raise UnsupportedError("the batch has lists, of texts or the like, which are no tensors")
        self.ascent: Ascent = ascent_of(step)
        held = {id(p) for p in self.module.parameters()}
        if any(id(p) not in held for p in step.parameters):
            raise UnsupportedError("the optimizer holds weights that are not in the module")
        self.moved = list(itertools.compress(step.parameters, step.perturbed))
        self.keys = [id(p) for p in self.moved]
        self.num_bytes = sum(p.numel() * p.element_size() for p in self.moved)

        self.note_buffers()

    def note_buffers(self) -> None:
        """From now on they are not to change."""
        self.buffers = [(buffer, buffer._version) for buffer in self.module.buffers()]

    @property
    def changed(self) -> bool:
        """Whether a buffer of the model has been written into or replaced."""
        pairs = itertools.zip_longest(self.module.buffers(), self.buffers, fillvalue=(None, 0))
        return any(now is not then or then._version != version for now, (then, version) in pairs)


class _Chunk:
    """Some micro-batches of one size; the first pass is taken when it is made.

    Attributes:
        averages: whether all of them have something to average; the rest is not there otherwise.
        loss: their mean loss at w.
        shares: what their means are divided by, ``(number,)``.
        reports: whether the closure said so.
    """

    def __init__(self, setting: _Setting, batch: Batch, number: int, size: int) -> None:
        self.setting, self.batch = setting, batch
        self.rows = tensors(batch)
        self.axes = [0 if part.ndim > 0 else None for part in self.rows]
        self.reports = False
        moved = [p.detach() for p in setting.moved]
        still = {id(p): p.detach() for p in setting.step.parameters}

        def first(weights: list[Tensor], rows: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            return self._loss({**still, **dict(zip(setting.keys, weights, strict=True))}, rows)

        slopes, (_, (losses, shares)) = self._vmap(grad_and_value(first, has_aux=True), None)(moved, self.rows)
        self.shares: Tensor = shares if self.reports else torch.full_like(losses, float(size))
        self.averages = not self.reports or bool((shares > 0).all())
        if not self.averages:
            return
        self.loss = weighted_mean(list(losses.detach()), self.shares.tolist())
        self.stacks = Stacks(setting.ascent)
        for weight, slope in zip(setting.moved, not_shared(slopes), strict=True):
            assert slope is not None
            self.stacks.add(weight, slope)
        squares = self.stacks.squares(number)
        assert squares is not None
        self.stacks.perturb(setting.ascent.factors(squares))

    @torch.enable_grad()
    def gradient(self) -> Gradient:
        """The mean of the gradients at w + ε_i, differentiated in w itself through the stack of copies."""
        spread = [self.stacks.spread(weight) for weight in self.setting.moved]

        def second(weights: list[Tensor], rows: list[Tensor]) -> Tensor:
            return self._loss(dict(zip(self.setting.keys, weights, strict=True)), rows)[0]

        losses = self._vmap(second, 0)(spread, self.rows)
        mean = (losses * (self.shares / self.shares.sum())).sum()
        return list(torch.autograd.grad(mean, self.setting.step.parameters, allow_unused=True))

    def clear(self) -> None:
        """Let go of the copies and the examples."""
        del self.stacks, self.rows, self.batch

    def _vmap(self, function: Any, of_weights: int | None) -> Any:
        vectorised = vmap(function, in_dims=(of_weights, self.axes), randomness="different")

        def quietly(weights: list[Tensor | None], rows: list[Tensor]) -> Any:
            with warnings.catch_warnings():  # operations that are looped over
                warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
                return vectorised(weights, rows)

        return quietly

    def _loss(self, weights: Mapping[int, Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Of one micro-batch: the scaled loss; the plain one, and its denominator if it is reported."""
        parts = iter(rows)
        batch = map_tensors(lambda _: next(parts), self.batch)
        with _replaced(self.setting.module, weights):
            returned = self.setting.step.closure(batch)
        loss, share = returned if isinstance(returned, tuple) else (returned, 1.0)
        self.reports = isinstance(returned, tuple)
        share = share if isinstance(share, Tensor) else torch.full_like(loss.detach(), share)
        scale = self.setting.step.scale
        return loss if scale is None else loss * scale, (loss, share.detach().to(loss.dtype))


@contextlib.contextmanager
def _replaced(module: nn.Module, weights: Mapping[int, Tensor]) -> Iterator[None]:
    """Let a module compute with other weights for a while, given by the identities of those in their place.

    ``torch.func.functional_call`` would leave the replacement behind in a layer that a model holds under two names.
    """
    entries = [
        (part._parameters, key, p)
        for part in module.modules()
        for key, p in part._parameters.items()
        if id(p) in weights
    ]
    try:
        for registry, key, p in entries:
            registry[key] = weights[id(p)]  # type: ignore[assignment]
        yield
    finally:
        for registry, key, p in entries:
            registry[key] = p


def _parts(step: Step, most: int) -> Iterator[tuple[int, int, Batch]]:
    """Consecutive micro-batches of one size, at most so many: their number, their size, and them as a stack."""
    start = sum(step.sizes[: step.own.start])
    for size, group in itertools.groupby(split_of(step)):
        left = len(list(group))
        while left:
            number = min(left, max(1, most))
            part = take(step.batch, start, start + number * size)
            yield number, size, map_tensors(partial(_stacked, number), part)
            start += number * size
            left -= number


def _stacked(number: int, tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 0 else tensor.reshape(number, -1, *tensor.shape[1:])
