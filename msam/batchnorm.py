"""Which statistics batch norm normalises a micro-batch by, in training: an explicit choice."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msam.replay import RandomState, buffers_kept
from msam.step import Step

_THE_WHOLE_BATCH = -1  # in place of the number of a micro-batch


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


class BatchStatistics(BatchNormPolicy):
    """All micro-batches by the mean and variance of the whole batch at w, so that m does not change batch norm.

    A pass over the whole batch before the others, without a graph and with the same weights, collects the statistics
    and updates the running ones, once per batch. Within the step they are constants: no gradient flows through them,
    and they stay those at w where weights are perturbed. So at ρ = 0 the gradient is not that of ordinary batch norm,
    which differentiates through its statistics, but it is the same for every m. The pass calls the closure once more,
    with the whole batch at once; what is drawn at random in it (dropout masks) is not what the micro-batches draw,
    whose numbers are left to them. Each accumulated batch is normalised by its own statistics. Where processes share
    the work, each of them takes the whole batch in this pass.
    """

    @contextlib.contextmanager
    def during(self, step: Step) -> Iterator[None]:
        """Batch-norm layers are in evaluation mode, with the batch's statistics in place of the running ones.

        Raises:
            ValueError: if a layer is called twice in one pass, and so has no single mean and variance.
        """
        found = _statistics_of_batch(step)
        kept = {layer: (layer.running_mean, layer.running_var) for layer in found}
        try:
            for layer, (mean, variance) in found.items():
                layer.running_mean, layer.running_var = mean, variance
                layer.training = False
            yield
        finally:
            for layer, (running_mean, running_var) in kept.items():
                layer.running_mean, layer.running_var = running_mean, running_var
                layer.training = True


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


def _statistics_of_batch(step: Step) -> dict[_BatchNorm, tuple[Tensor, Tensor]]:
    """Mean and variance of the inputs of each batch-norm layer that is in training mode, over the whole batch."""
    found: dict[_BatchNorm, tuple[Tensor, Tensor]] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        if layer in found:
            raise ValueError(
                f"a {type(layer).__name__} is called twice in one pass, and the batch has two means there; "
                "use ShardStatistics, or a layer for each call"
            )
        values = inputs[0].detach()
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        others = [dim for dim in range(values.ndim) if dim != 1]
        variance, mean = torch.var_mean(values, dim=others, correction=0)
        like = mean if layer.running_mean is None else layer.running_mean
        found[layer] = (mean.to(like), variance.to(like))

    layers = training_layers(step.module)
    random_state = RandomState(step.parameters[0].device)
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad(), buffers_kept(step.module), step.stream(_THE_WHOLE_BATCH):
            if layers:
                step.closure(step.batch)
            updated = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
        for buffer, value in updated:  # and no others: the micro-batches update them
            buffer.copy_(value)
    finally:
        for hook in hooks:
            hook.remove()
        random_state.restore()
    return found
