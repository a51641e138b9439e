"""What an objective must be before a number is measured on it, and the sentence that says so when it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from landscape.batches import Batch, Fingerprint, num_examples, split

if TYPE_CHECKING:
    from landscape.objective import Objective


def require_module(model: object) -> None:
    """A model must be a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")


def require_reiterable(data: object) -> None:
    """Data must be batches that can be gone through twice."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"data must be iterable more than once; got a {type(data).__name__}, which is used up after one pass. "
            "Pass a DataLoader, or list(...) of it."
        )
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        raise TypeError("data must be an iterable of batches; got one batch. Pass [(inputs, targets)].")
    if not isinstance(data, Iterable):
        raise TypeError(f"data must be an iterable of batches; got {type(data).__name__}")


def require_evaluable_mode(model: nn.Module) -> None:
    """No module may be in training mode that then draws random numbers or couples the examples of a batch."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, _BatchNorm):
            effect = "normalises with the statistics of each batch, which couples its examples"
        elif isinstance(module, _DropoutNd) and module.p > 0:
            effect = "draws a new mask at each call"
        elif isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            effect = "applies dropout between its layers"
        else:
            continue
        raise ValueError(
            f"the model is in training mode, where {name or 'it'} ({type(module).__name__}) {effect}; "
            "the loss is then no fixed function of the weights. Call model.eval() first."
        )


def require_finite(weights: Tensor) -> None:
    """Weights must be finite numbers."""
    if not torch.isfinite(weights).all():
        raise ValueError("the model's weights are not all finite; there is nothing to measure around them")


def require_same_data(first: Fingerprint, second: Fingerprint) -> None:
    """There must be data, and two passes must find the same examples, in any order."""
    if not first.examples:
        raise ValueError("the data set is empty; it must give at least one batch")
    if first.examples != second.examples:
        raise ValueError(
            "the objective is not deterministic: a second pass over the data gave other examples. "
            "Turn off augmentation, sampling and drop_last for a measurement."
        )


def require_scalar(loss: Any) -> None:
    """A loss must be one number."""
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss must return a scalar tensor, the mean over the batch; got {found}")


def require_deterministic(objective: Objective, batch: Batch) -> None:
    """The same weights must give the same loss and gradient, whatever the random state."""
    probe = objective.part([batch])
    loss, gradient = probe.loss_and_gradient(objective.weights)
    if not torch.isfinite(loss):
        raise ValueError(
            f"the loss at the model's weights is {loss.item()}; a landscape is measured around a finite loss. "
            "Check the inputs, the targets and the weights."
        )
    with random_state_kept(objective.weights.device):
        probe.loss(objective.weights)  # a model that draws random numbers moves the state on
        other_loss, other_gradient = probe.loss_and_gradient(objective.weights)
    moved = max((loss - other_loss).abs().item(), (gradient - other_gradient).abs().max().item())
    scale = max(1.0, loss.abs().item(), gradient.abs().max().item())
    if moved > _tolerance(loss) * scale:
        raise ValueError(
            f"the objective is not deterministic: the same weights and data gave loss {loss.item():.8g} and then "
            f"{other_loss.item():.8g} (loss or gradient moved by {moved:.2g}). Turn off dropout and noise."
        )


def require_additive(objective: Objective, batch: Batch) -> None:
    """The mean over a batch must be the weighted mean over two parts, unequal so that the weights matter."""
    size = num_examples(batch)
    if size < 2:
        return
    cut = max(1, (size - 1) // 2)
    whole = objective.part([batch]).loss(objective.weights)
    together = objective.part(split(batch, [cut, size - cut])).loss(objective.weights)
    if not (whole - together).abs() <= _tolerance(whole) * max(1.0, whole.abs().item()):  # also when it is NaN
        raise ValueError(
            f"the loss of a batch ({whole.item():.8g}) is not the weighted mean over its parts "
            f"({together.item():.8g}), so batches cannot be put together. The loss must be a mean over what "
            "`denominator` counts (examples, unless the loss says otherwise), and the model must treat examples "
            "one by one; pass denominator=lambda outputs, targets: ... for what your loss divides by."
        )


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn within it leaves the global random state of the CPU and of the device as it was."""
    context: AbstractContextManager[None] = torch.random.fork_rng(
        [device] if device.type != "cpu" else [], device_type=device.type
    )
    return context


def _tolerance(value: Tensor) -> float:
    """How far two evaluations that differ in rounding only may lie apart, relative to their size."""
    return float(torch.finfo(value.dtype).eps) * 1e3
