"""How the micro-batches of one step are carried out: the same gradient within rounding, at different cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.batches import Batch, split
from landscape.perturbations import Perturbation
from msam.replay import RandomState, buffers_kept, copy_into, weights_kept

Closure = Callable[[Batch], Tensor]
Gradient = list[Tensor | None]


@dataclass(frozen=True)
class Step:
    """One step of mSAM before it is taken.

    Attributes:
        closure: micro-batch -> mean loss over it.
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
        total = sum(step.sizes)
        gradient: Gradient = [None] * len(step.parameters)
        losses: list[Tensor] = []
        with weights_kept(step.parameters) as originals:
            for part, size in zip(split(step.batch, step.sizes), step.sizes, strict=True):
                share = size / total
                loss, slopes = _at_perturbed_weights(step, part, originals)
                losses.append(loss * share)
                gradient = [_add(so_far, slope, share) for so_far, slope in zip(gradient, slopes, strict=True)]
        return torch.stack(losses).sum(), gradient


def _at_perturbed_weights(step: Step, part: Batch, originals: list[Tensor]) -> tuple[Tensor, Gradient]:
    """The loss of one micro-batch at w, and its gradient at w + ε; leaves the weights at w."""
    if not step.perturbs:
        return loss_and_gradients(step.closure, part, step.parameters)
    random_state = RandomState(step.parameters[0].device)
    loss, slopes = loss_and_gradients(step.closure, part, step.parameters)
    used = [i for i, slope in enumerate(slopes) if slope is not None]
    if not used:
        return loss, slopes
    weights = [step.parameters[i] for i in used]
    assert step.perturbation is not None  # it perturbs
    epsilon = step.perturbation([w.detach() for w in weights], [slopes[i] for i in used])  # type: ignore[misc]
    with torch.no_grad():
        torch._foreach_add_(weights, epsilon)
    random_state.restore()
    with buffers_kept(step.module):
        _, perturbed = loss_and_gradients(step.closure, part, step.parameters)
    copy_into(weights, [originals[i] for i in used])
    return loss, perturbed


def loss_of(closure: Closure, batch: Batch) -> Tensor:
    """The closure's loss, with its graph.

    Raises:
        ValueError: if it is not a scalar tensor with a graph.
    """
    with torch.enable_grad():
        loss = closure(batch)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the closure must return the mean loss of its micro-batch, a scalar tensor; got {found}")
    if not loss.requires_grad:
        raise ValueError(
            "the loss that the closure returned has no graph; do not detach it, call .item() or no_grad() inside"
        )
    return loss


def loss_and_gradients(closure: Closure, batch: Batch, parameters: list[Tensor]) -> tuple[Tensor, Gradient]:
    """The loss of a batch, detached, and its gradient; None for a parameter it does not depend on."""
    loss = loss_of(closure, batch)
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _add(so_far: Tensor | None, slope: Tensor | None, share: float) -> Tensor | None:
    if slope is None:
        return so_far
    return slope * share if so_far is None else so_far.add_(slope, alpha=share)
