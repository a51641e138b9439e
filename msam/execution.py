"""How the micro-batches of one step are carried out: the same gradient within rounding, at different cost."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import Batch, split
from landscape.recomputed import hides_weights
from msam.averages import MIXED, all_finite, averaged, weighted_mean
from msam.descents import Shift, chosen
from msam.diagnostics import Observer
from msam.replay import RandomState, WeightsKept, buffers_kept
from msam.step import FINITE, Gradient, Outcome, Step


class Execution(ABC):
    """A way of computing Σ_i |S_i|/b ∇L_{S_i}(w + ε_i)."""

    @abstractmethod
    def outcome(self, step: Step) -> Outcome:
        """What the step's own micro-batches come to. The weights are afterwards what they were."""


class OneByOne(Execution):
    """One micro-batch after another, with the weights perturbed in place: for every model, in the memory of SAM.

    Args:
        device_batch_size: the most examples that go through the model together, to save memory; a larger micro-batch
            is taken in parts, and its perturbation and gradient are still those of the whole, weighted by examples
            or by what the closure reports. None for no limit. Batch norm then normalises each part on its own.

    Raises:
        ValueError: if the size is below one.
    """

    def __init__(self, *, device_batch_size: int | None = None) -> None:
        if device_batch_size is not None and integer(device_batch_size, "device_batch_size") < 1:
            raise ValueError(f"device_batch_size must be at least 1; got {device_batch_size}")
        self.device_batch_size = device_batch_size

    def outcome(self, step: Step) -> Outcome:
        """See :class:`Execution`."""
        sums = _Sums(step)
        observer = Observer() if step.observes else None
        sizes = [step.sizes[i] for i in step.own]
        parts = [step.own_batch] if len(sizes) == 1 else split(step.own_batch, sizes)
        with WeightsKept(step.parameters) as weights:
            for number, part in zip(step.own, parts, strict=True):
                with step.stream(number):
                    self._take(_MicroBatch(step, number, part, weights, self.device_batch_size), sums, observer)
        outcome = sums.outcome()
        outcome.observer = observer
        return outcome

    def _take(self, shard: _MicroBatch, sums: _Sums, observer: Observer | None) -> None:
        """Take in one micro-batch; of what it holds only the sums are left when this returns."""
        number, size = shard.number, shard.size
        if shard.denominator == 0:  # a mean over nothing, as where every target is ignored
            if observer is not None:
                observer.skip(number, size, shard.loss)
            return
        sums.add(shard, shard.direction())
        if observer is not None:
            gradient = chosen(shard.slopes(), shard.step.perturbed)
            observer.add(number, size, shard.loss, shard.last_loss, gradient)

    def __repr__(self) -> str:
        limit = "" if self.device_batch_size is None else f"device_batch_size={self.device_batch_size}"
        return f"OneByOne({limit})"


class _MicroBatch:
    """One micro-batch: its loss and gradient at w, and wherever it is probed; leaves the weights at w.

    The gradient at w is handed over to the descent, which alone knows how long it needs it, unless it is wanted
    afterwards; if the descent asks for it once more, it is taken once more.
    """

    def __init__(self, step: Step, number: int, batch: Batch, weights: WeightsKept, limit: int | None) -> None:
        self.step = step
        self.number = number
        self.weights = weights
        size = self.size = step.sizes[number]
        if limit is None or limit >= size:
            self.sizes, self.parts = [size], [batch]
        else:
            self.sizes = [min(limit, size - start) for start in range(0, size, limit)]
            self.parts = split(batch, self.sizes)
        self.random_state = RandomState(step.parameters[0].device)
        self.last_loss: Tensor | None = None  # the last one at perturbed weights
        self.used = [False] * len(step.parameters)  # by the passes that the direction is made of
        self.finite = FINITE  # whether all of them were, where overflow is looked for
        self.keeps = not step.perturbs or step.learns or step.observes
        needs = self.keeps or step.descent is None or step.descent.needs_gradient
        self.loss, slopes, self.denominator = self._pass(with_gradient=needs)
        self.clean = self._filled(slopes) if needs else None
        if step.scale is not None:
            self.finite = self.finite & torch.isfinite(self.loss)  # all there is to see where no gradient is taken

    def direction(self) -> Gradient:
        """What the weights step along on this micro-batch, times the scale."""
        descent = self.step.descent
        if descent is None or not self.step.perturbs:
            slopes = self.slopes()
        else:
            weights = [parameter.detach() for parameter in self.step.parameters]
            key = (self.step.number, self.number)
            slopes = descent.direction(weights, self._probe, perturbed=self.step.perturbed, key=key)
        scale = self.step.scale
        scaled = slopes if scale is None else list(torch._foreach_mul(slopes, scale))
        return [slope if used else None for slope, used in zip(scaled, self.used, strict=True)]

    def slopes(self) -> list[Tensor]:
        """The gradient at w, unscaled, of zeros where unused."""
        if self.clean is None:
            now = RandomState(self.step.parameters[0].device)
            self.random_state.restore()
            self.clean = self._repeated()[1]
            now.restore()
        slopes = self.clean
        if not self.keeps:
            self.clean = None
        return slopes

    def _probe(self, shift: Shift) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient at w + ε, both unscaled."""
        if shift is None:
            return self.loss, self.slopes()
        casts = torch.is_autocast_enabled(self.step.parameters[0].device.type)
        self.weights.move(shift)
        del shift  # the last that is left of ε, as a rule
        if casts:
            torch.clear_autocast_cache()  # which would keep weights as they were before they moved
        self.step.dropout.before_another_pass(self.random_state)
        self.last_loss, slopes = self._repeated()
        self.weights.put_back()
        if casts:
            torch.clear_autocast_cache()
        return self.last_loss, slopes

    def _repeated(self) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient where the weights are; buffers stay what they are."""
        with buffers_kept(self.step.module):
            loss, slopes, _ = self._pass(with_gradient=True)
        return loss, self._filled(slopes)

    def _filled(self, slopes: Gradient) -> list[Tensor]:
        if self.step.scale is not None:
            self.finite = self.finite & all_finite(slopes)
        self.used = [used or slope is not None for used, slope in zip(self.used, slopes, strict=True)]
        pairs = zip(slopes, self.step.parameters, strict=True)
        return [torch.zeros_like(p) if slope is None else slope for slope, p in pairs]

    def _pass(self, *, with_gradient: bool) -> tuple[Tensor, Gradient, float | None]:
        """Mean loss where the weights are, its gradient, and the denominator that was reported."""
        gradient: Gradient = [None] * len(self.step.parameters)
        reported: float | None = None
        if len(self.parts) == 1:
            loss, scaled, reported = self.step.loss(self.parts[0])
            return loss, self._gradient(scaled) if with_gradient and reported != 0 else gradient, reported
        losses: list[Tensor] = []
        shares: list[float] = []
        for part, size in zip(self.parts, self.sizes, strict=True):
            before, (loss, scaled, reported) = reported, self.step.loss(part)
            if shares and (before is None) != (reported is None):
                raise ValueError(MIXED)
            if reported == 0:
                continue
            shares.append(float(size) if reported is None else reported)
            losses.append(loss)
            if with_gradient:
                gradient = averaged(gradient, self._gradient(scaled), shares)
        if not losses:
            return loss, gradient, 0.0
        return weighted_mean(losses, shares), gradient, None if reported is None else sum(shares)

    def _gradient(self, scaled: Tensor) -> Gradient:
        try:
            slopes: Gradient = list(torch.autograd.grad(scaled, self.step.parameters, allow_unused=True))
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            raise ValueError(
                "the graph of the loss that the closure returned is gone; a closure must not call backward, and what "
                "it computes with the weights must be computed in it, each time"
            ) from error
        if self.number == self.step.own.start and any(slope is None for slope in slopes):
            _require_whole_graph(scaled)
        scale = self.step.scale
        return slopes if scale is None else [None if slope is None else slope / scale for slope in slopes]


def _require_whole_graph(loss: Tensor) -> None:
    """Weights without a gradient are not used, unless a checkpoint hides their part of the graph.

    Raises:
        ValueError: if there is such a checkpoint.
    """
    if hides_weights(loss):
        raise ValueError(
            "some weights have no gradient, and the model has a checkpoint in which weights get none, since "
            "gradients are taken without backward; use it with use_reentrant=False"
        )


class _Sums:
    """The weighted means of what micro-batches come to, as they come."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.gradient: Gradient = [None] * len(step.parameters)
        self.clean: Gradient = [None] * len(step.parameters)
        self.losses: list[Tensor] = []
        self.shares: list[float] = []
        self.reported = False
        self.finite: Tensor | None = None

    def add(self, shard: _MicroBatch, slopes: Gradient) -> None:
        """Take in one micro-batch, and the direction that it gives."""
        if self.losses and self.reported != (shard.denominator is not None):
            raise ValueError(MIXED)
        self.reported = shard.denominator is not None
        self.shares.append(float(shard.size) if shard.denominator is None else shard.denominator)
        self.losses.append(shard.loss)
        self.gradient = averaged(self.gradient, slopes, self.shares)
        if self.step.learns:
            self.clean = averaged(self.clean, list(shard.slopes()), self.shares)
        if self.step.scale is not None:
            finite = all_finite(slopes) & shard.finite
            self.finite = finite if self.finite is None else self.finite & finite

    def outcome(self) -> Outcome:
        """The means."""
        finite = FINITE if self.finite is None else self.finite
        clean = [entry for entry in self.clean if entry is not None] if self.step.learns else None
        if self.losses:
            loss = weighted_mean(self.losses, self.shares)
        else:
            loss = torch.zeros((), device=self.step.parameters[0].device)
        return Outcome(loss, self.gradient, sum(self.shares), self.reported, finite, clean)
