"""Which statistics batch norm normalises a micro-batch by, in training: an explicit choice."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from msam.step import Step


class BatchNormPolicy(ABC):
    """How the batch-norm layers of a model behave during a step.

    In every policy the running statistics are those of passes at unperturbed weights.
    """

    @abstractmethod
    def during(self, step: Step) -> contextlib.AbstractContextManager[None]:
        """A context in which the step's passes are carried out."""


class ShardStatistics(BatchNormPolicy):
    """Each micro-batch by its own mean and variance, as if it were a batch: ghost batch norm at ρ = 0."""

    def during(self, step: Step) -> contextlib.AbstractContextManager[None]:
        """Nothing changes."""
        del step
        return contextlib.nullcontext()


class RunningStatistics(BatchNormPolicy):
    """By the running statistics, which stay as they are: for fine-tuning, or micro-batches of a few examples."""

    @contextlib.contextmanager
    def during(self, step: Step) -> Iterator[None]:
        """Batch-norm layers are in evaluation mode."""
        layers = training_layers(step.module)
        try:
            for layer in layers:
                layer.training = False
            yield
        finally:
            for layer in layers:
                layer.training = True


def training_layers(module: nn.Module | None) -> list[_BatchNorm]:
    """The batch-norm layers that are in training mode.

    Raises:
        ValueError: if there is no module to look at.
    """
    if module is None:
        raise ValueError("a policy for batch norm needs the model: give mSAM the module")
    return [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
