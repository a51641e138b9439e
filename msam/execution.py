"""How the micro-batches of one step are carried out: the same gradient within rounding, at different cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.batches import Batch, split
from landscape.perturbations import Perturbation
from msam.replay import RandomState, buffers_kept, copy_into, weights_kept

Closure = Callable[[Batch], Tensor | tuple[Tensor, Tensor | float]]
Gradient = list[Tensor | None]


@dataclass(frozen=True)
class Step:
    """One step of mSAM before it is taken.

    Attributes:
        closure: micro-batch -> mean loss over it, or (mean loss, what it was divided by).
        batch: all examples.
        sizes: the number of examples of each micro-batch, in the order of the batch.
        parameters: the weights that are perturbed and stepped, ``requires_grad`` all of them.
        perturbation: (weights, gradients) -> ε; None for none.
        module: the model, for its buffers and its layers.
    """

    closure: Closure
    batch: Batch
    sizes: Sequence[int]
    parameters: list[Tensor]
    perturbation: Perturbation | None
    module: nn.Module | None

    @property
    def perturbs(self) -> bool:
        """Whether a second pass differs from the first."""
        return self.perturbation is not None and not self.perturbation.is_zero


class Execution(ABC):
    """A way of computing Σ_i |S_i|/b ∇L_{S_i}(w + ε_i)."""

    @abstractmethod
    def gradients(self, step: Step) -> tuple[Tensor, Gradient]:
        """The mean loss over the batch at w, detached, and the averaged gradient, one entry per parameter.

        An entry is None where no micro-batch used the parameter. The weights are afterwards what they were.
        """


class OneByOne(Execution):
    """One micro-batch after another, with the weights perturbed in place: for every model, in the memory of SAM."""

    def gradients(self, step: Step) -> tuple[Tensor, Gradient]:
        """See :class:`Execution`."""
        gradient: Gradient = [None] * len(step.parameters)
        losses: list[Tensor] = []
        shares: list[float] = []
        examples = sum(step.sizes)
        reported = False
        with weights_kept(step.parameters) as originals:
            for part, size in zip(split(step.batch, step.sizes), step.sizes, strict=True):
                loss, slopes, denominator = _at_perturbed_weights(step, part, originals)
                reported = denominator is not None
                share = size / examples if denominator is None else denominator
                if share == 0:  # a mean over nothing, as where every target is ignored
                    continue
                shares.append(share)
                losses.append(loss * share)
                gradient = [_add(so_far, slope, share) for so_far, slope in zip(gradient, slopes, strict=True)]
        if not losses:
            raise ValueError("the closure reported a denominator of zero for every micro-batch; there is no loss")
        total = torch.stack(losses).sum()
        if not reported:
            return total, gradient
        return total / sum(shares), [slope if slope is None else slope.div_(sum(shares)) for slope in gradient]


def _at_perturbed_weights(step: Step, part: Batch, originals: list[Tensor]) -> tuple[Tensor, Gradient, float | None]:
    """The loss of one micro-batch at w, its gradient at w + ε, and its denominator; leaves the weights at w."""
    random_state = RandomState(step.parameters[0].device) if step.perturbs else None
    loss, denominator = loss_of(step.closure, part)
    if denominator == 0:
        return loss.detach(), [None] * len(step.parameters), denominator
    slopes: Gradient = list(torch.autograd.grad(loss, step.parameters, allow_unused=True))
    used = [i for i, slope in enumerate(slopes) if slope is not None]
    if random_state is None or step.perturbation is None or not used:
        return loss.detach(), slopes, denominator
    weights = [step.parameters[i] for i in used]
    epsilon = step.perturbation([w.detach() for w in weights], [slopes[i] for i in used])  # type: ignore[misc]
    with torch.no_grad():
        torch._foreach_add_(weights, epsilon)
    random_state.restore()
    with buffers_kept(step.module):
        again, _ = loss_of(step.closure, part)
        perturbed: Gradient = list(torch.autograd.grad(again, step.parameters, allow_unused=True))
    copy_into(weights, [originals[i] for i in used])
    return loss.detach(), perturbed, denominator


def loss_of(closure: Closure, batch: Batch) -> tuple[Tensor, float | None]:
    """The closure's loss, with its graph, and the denominator of its mean where the closure reports one.

    Raises:
        ValueError: if the loss is not a scalar tensor with a graph, or the denominator is negative or not finite.
    """
    with torch.enable_grad():
        returned = closure(batch)
    loss, denominator = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the closure must return the mean loss of its micro-batch, a scalar tensor; got {found}")
    if not loss.requires_grad:
        raise ValueError(
            "the loss that the closure returned has no graph; do not detach it, call .item() or no_grad() inside"
        )
    if denominator is not None:
        denominator = float(denominator)
        if not (math.isfinite(denominator) and denominator >= 0):
            raise ValueError(f"the denominator that the closure reports must be zero or more; got {denominator}")
    return loss, denominator


def _add(so_far: Tensor | None, slope: Tensor | None, share: float) -> Tensor | None:
    if slope is None:
        return so_far
    return slope * share if so_far is None else so_far.add_(slope, alpha=share)
