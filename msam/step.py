"""One step of mSAM before it is taken, and what comes of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from landscape.batches import Batch, map_tensors, take
from landscape.chance import mixed
from msam.descents import Descent
from msam.diagnostics import Observer
from msam.dropout import DropoutPolicy, SameMasks
from msam.replay import RandomState

Closure = Callable[[Batch], Tensor | tuple[Tensor, Tensor | float]]
Gradient = list[Tensor | None]
FINITE = torch.ones((), dtype=torch.bool)  # of an outcome, where overflow is not looked for


@dataclass(frozen=True)
class Step:
    """One step of mSAM before it is taken.

    Attributes:
        closure: micro-batch -> mean loss over it, or (mean loss, what it was divided by).
        batch: all examples.
        sizes: the number of examples of each micro-batch, in the order of the batch.
        own: the numbers of the consecutive micro-batches that are carried out here: all, or those of one process.
        parameters: the weights that are stepped, ``requires_grad`` all of them.
        perturbed: which of them are perturbed, one entry per parameter.
        descent: what the weights step along; None for the gradient.
        module: the model, for its buffers and its layers.
        number: the batches taken before this one.
        seed: of the random numbers that the closure draws, a stream for each micro-batch; None to draw from the
            random state of the process.
        scale: what losses are multiplied by before they are differentiated; None where overflow is not looked for.
        observes: whether the micro-batches are to be reported on, one by one.
        dropout: what passes at perturbed weights draw at random.
        of_optimizer: numbers that the optimizers of all processes must have alike, by what they are.
    """

    closure: Closure
    batch: Batch
    sizes: Sequence[int]
    own: range
    parameters: list[Tensor]
    perturbed: Sequence[bool]
    descent: Descent | None
    module: nn.Module | None
    number: int = 0
    seed: int | None = None
    scale: float | None = None
    observes: bool = False
    dropout: DropoutPolicy = field(default_factory=SameMasks)
    of_optimizer: Mapping[str, float] = field(default_factory=dict)

    @property
    def alike(self) -> dict[str, float]:
        """What processes that share the step must have alike to take the same one, numbers by what they are."""
        return {
            "scales of the loss": self.scale or 0.0,
            "seeds": float(self.seed or 0),
            "radii": float(getattr(self.descent, "rho", 0.0)),
            **self.of_optimizer,
        }

    @property
    def perturbs(self) -> bool:
        """Whether a second pass differs from the first."""
        return self.descent is not None and not self.descent.is_plain and any(self.perturbed)

    @property
    def learns(self) -> bool:
        """Whether the mean gradient at w is wanted."""
        return self.descent is not None and self.descent.learns

    @property
    def num_own_examples(self) -> int:
        """The number of examples that are carried out here."""
        return sum(self.sizes[i] for i in self.own)

    @property
    def own_batch(self) -> Batch:
        """The examples that are carried out here."""
        if len(self.own) == len(self.sizes):
            return self.batch
        start = sum(self.sizes[: self.own.start])
        return take(self.batch, start, start + self.num_own_examples)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, float | None]:
        """The closure's loss, detached, the same scaled and with its graph, and the denominator it reports, if any.

        Raises:
            ValueError: if the loss is not a scalar tensor with a graph, the denominator is negative or not finite, or
                batch norm is given a single example.
        """
        with torch.enable_grad():
            try:
                returned = self.closure(map_tensors(_itself, batch))  # a closure may take entries out of its mapping
            except ValueError as error:
                if "Expected more than 1 value per channel" not in str(error):
                    raise
                raise ValueError(
                    "batch norm has no variance to divide by in a single example; take fewer micro-batches, or "
                    "normalise otherwise: batch_norm=BatchStatistics() or RunningStatistics()"
                ) from error
            loss, denominator = _checked(returned)
            scaled = loss if self.scale is None else loss * self.scale
        return loss.detach(), scaled, denominator

    def stream(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Let a micro-batch draw its random numbers from its own stream, where there are such."""
        return contextlib.nullcontext() if self.seed is None else self._seeded(self.seed, number)

    @contextlib.contextmanager
    def _seeded(self, seed: int, number: int) -> Iterator[None]:
        device = self.parameters[0].device
        before = RandomState(device)
        RandomState.seed(mixed(seed, self.number, number), device)
        try:
            yield
        finally:
            before.restore()


@dataclass
class Outcome:
    """What micro-batches come to: means weighted by their denominators.

    Attributes:
        loss: mean loss at w, detached, a scalar.
        gradient: mean of the directions, times the scale; one entry per parameter, None where no micro-batch used it.
        denominator: what the means were divided by: examples, or the sum of what the closure reported.
        reported: whether the closure reported it.
        finite: whether all gradients were, those at w included; a boolean scalar.
        clean: mean gradient at w (of zeros where unused), when the descent learns from it.
        observer: what was seen of each micro-batch, when a report was asked for.
    """

    loss: Tensor
    gradient: Gradient
    denominator: float
    reported: bool
    finite: Tensor
    clean: list[Tensor] | None = None
    observer: Observer | None = field(default=None, repr=False)


def require_closure(closure: object) -> None:
    """A closure is called with each micro-batch.

    Raises:
        TypeError: if it cannot be called.
    """
    if not callable(closure):
        raise TypeError(
            f"closure must be a function, micro-batch -> mean loss over it; got {type(closure).__name__}. "
            "A step is step(closure, batch)"
        )


def _checked(returned: object) -> tuple[Tensor, float | None]:
    loss, denominator = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the closure must return the mean loss of its micro-batch, a scalar tensor; got {found}")
    if not loss.requires_grad:
        raise ValueError(
            "the loss that the closure returned has no graph; do not detach it, call .item() or no_grad() inside, "
            "or take the step in inference_mode()"
        )
    if isinstance(denominator, Tensor):
        if denominator.numel() != 1:
            raise ValueError(
                "the closure must return the mean loss, or the pair of it and what it was divided by, a number; got a "
                f"tensor of shape {tuple(denominator.shape)} for the latter. Leave out whatever else it returns"
            )
        denominator = denominator.detach()
    if denominator is not None:
        denominator = float(denominator)
        if not (math.isfinite(denominator) and denominator >= 0):
            raise ValueError(f"the denominator that the closure reports must be zero or more; got {denominator}")
    return loss, denominator


def _itself(tensor: Tensor) -> Tensor:
    return tensor
