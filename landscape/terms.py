"""One batch's contribution to an objective: Σ_b d_b · loss_b / Σ_b d_b is made of terms (loss_b, d_b)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from landscape.batches import Batch
from landscape.checks import require_scalar
from landscape.denominators import Denominator
from landscape.forward import Seam
from landscape.parameters import ParameterSpace

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Definition:
    """What all terms of an objective have in common."""

    seam: Seam
    loss: Loss
    denominator: Denominator
    space: ParameterSpace


class Term:
    """The loss of one batch as a function of w; ``count`` is its denominator d_b once the loss has been evaluated."""

    def __init__(self, definition: Definition, batch: Batch) -> None:
        self.definition = definition
        self.batch = batch
        self.count: Tensor | int = 0
        self._targets: Any = None

    def outputs(self, w: Tensor) -> Tensor:
        """The model's outputs for this batch."""
        named = {f"model.{name}": block for name, block in self.definition.space.unflatten(w).items()}
        outputs, self._targets = functional_call(self.definition.seam, named, (self.batch,))
        self.count = self.definition.denominator(outputs, self._targets)
        return outputs  # type: ignore[no-any-return]

    def loss_of_outputs(self, outputs: Tensor) -> Tensor:
        """The loss as a function of the outputs, a scalar."""
        loss = self.definition.loss(outputs, self._targets)
        require_scalar(loss)
        return loss

    def loss(self, w: Tensor) -> Tensor:
        """The loss as a function of the weights, a scalar."""
        return self.loss_of_outputs(self.outputs(w))


class Mean:
    """The running sum Σ_b d_b · value_b and the weight Σ_b d_b; a batch with d_b = 0 does not count."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self.weight: Tensor | float = 0

    def add(self, value: Tensor, count: Tensor | int) -> None:
        """Take in the value of one batch. Scalars are summed in double precision."""
        if isinstance(count, Tensor):
            value = torch.where(count == 0, torch.zeros_like(value), value)  # a mean over nothing is NaN
        elif count == 0:
            value = torch.zeros_like(value)
        if value.ndim == 0 and value.device.type != "mps":
            value = value.double()
        share = value * count
        self._total = share if self._total is None else self._total.add_(share)
        self.weight = self.weight + count

    @property
    def value(self) -> Tensor:
        """The mean so far."""
        if self._total is None:
            raise ValueError("a mean over no batch is not defined")
        return self._total / self.weight
