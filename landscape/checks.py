"""What an objective must be before a number is measured on it, and the sentence that says so when it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from landscape.batches import Batch, concatenate, num_examples, shape_of_examples, split, take, tensors
from landscape.fingerprint import Fingerprint
from landscape.widened import narrows

if TYPE_CHECKING:
    from landscape.objective import Objective

GRADIENTS = 30.0  # times the tolerance of losses: rounding in deep networks reaches some 1e-3 of a gradient
HEAD = 2  # examples of each batch that are put together; models that squeeze do not take one


def require_module(model: object) -> None:
    """A model must be a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")


def require_functions(given: Mapping[str, object]) -> None:
    """What is called must be callable."""
    for name, value in given.items():
        if not callable(value):
            taken = {"forward": "(model, batch)"}.get(name, "(outputs, targets)")
            advice = ", such as torch.nn.functional.cross_entropy" if name == "loss" else ""
            raise TypeError(f"{name} must be a function of {taken}{advice}; got {value!r}")


@contextmanager
def dtypes_named(weights: Tensor, batches: Sequence[Batch]) -> Iterator[None]:
    """Within it, what torch says where a model or loss cannot take the data's dtype is one sentence that names both.

    Raises:
        TypeError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        words = " ".join(str(error).split())
        if "dtype" not in words and "type" not in words.lower().split() and "scalar types" not in words:
            raise
        found = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors(batches[0])] if batches else []
        own = str(weights.dtype).removeprefix("torch.")
        raise TypeError(
            f"the model or the loss cannot take data of this dtype: a batch holds {', '.join(found)}, and the weights "
            f"are {own} ({words[:200].rstrip('. ')}). Convert the inputs, as inputs.to(torch.{own}), or the "
            "model, or the class weights of the loss; targets that name classes are torch.long."
        ) from None


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


def require_one_device(model: nn.Module, loss: object) -> None:
    """All numbers of a model and of its loss must be on one device, frozen ones and buffers too."""
    parts = [("model", model), *([("loss", loss)] if isinstance(loss, nn.Module) else [])]
    tensors = {
        f"{name} of the {what}": tensor
        for what, module in parts
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    require_numbers(tensors.items())
    found = {str(tensor.device): name for name, tensor in tensors.items()}
    if len(found) > 1:
        places = ", ".join(f"{name} on {device}" for device, name in found.items())
        raise ValueError(f"model and loss must be on one device; got {places}. Use .to(device)")


def require_numbers(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Named tensors must hold numbers, which those on the device meta do not, nor those of a lazy layer at first.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(
                f"{name} is of a lazy layer, which has neither shape nor numbers before its first batch; take one "
                "through the model, or name the sizes of the layer"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the device 'meta', which has shapes and no numbers; make it on the CPU, or, of a model "
                "that is built, call to_empty(device='cpu') and then draw or load all its numbers"
            )


def require_precision(weights: Tensor) -> None:
    """Weights must be real and of single precision at least: below, rounding is larger than what is measured."""
    if weights.dtype not in (torch.float32, torch.float64):
        kind = str(weights.dtype).removeprefix("torch.")
        advice = "Write them as pairs of real numbers" if weights.is_complex() else "Use model.float() for it"
        raise ValueError(f"a landscape is measured in float32 or float64; the weights are {kind}. {advice}.")


def require_like(value: object, weights: Tensor, name: str, *, columns: bool = False) -> None:
    """A vector, or a block of columns, must have the length, dtype and device of the weights."""
    dim = len(weights)
    shapes = f"({dim},) or ({dim}, k)" if columns else f"({dim},), like objective.weights"
    if not isinstance(value, Tensor) or value.ndim not in (1, 1 + columns) or len(value) != dim:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape {shapes}; got {found}")
    if (value.dtype, value.device) != (weights.dtype, weights.device):
        raise ValueError(
            f"{name} must have the dtype and the device of the weights, {weights.dtype} on {weights.device}; got "
            f"{value.dtype} on {value.device}. Use {name}.to(objective.weights)."
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
    """A loss must be one real number."""
    if not isinstance(loss, Tensor) or loss.ndim != 0 or loss.is_complex():
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        found = shape or "a complex number"
        raise ValueError(f"the loss must return a scalar tensor, the mean over the batch; got {found}")


def require_deterministic(objective: Objective) -> list[Seen]:
    """The same weights must give the same finite loss, whatever the random state; what was seen of each batch.

    A batch without anything to count has no loss and does not matter; its entry is NaN or meaningless.
    """
    parts = [objective.part([batch]) for batch in objective.batches]
    with dtypes_named(objective.weights, objective.batches):
        first = [Seen.of(part) for part in parts]
    loss = _mean([seen.loss for seen in first], [part.weight for part in parts])
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss at the model's weights is {loss}; a landscape is measured around a finite loss. "
            "Check the inputs, the targets and the weights."
        )
    tolerance = _tolerance(objective.weights)
    for seen, part in zip(first, parts, strict=True):  # a model that draws random numbers has moved the state on
        again = Seen.of(part)
        if part.weight != 0:
            seen.require_same(again, tolerance)
    return first


def require_additive(objective: Objective, wholes: Sequence[Seen]) -> None:
    """The mean over examples put together must be the weighted mean over their parts, in each batch and across them.

    Args:
        objective: what is checked.
        wholes: what was seen of its batches, one by one.
    """
    for batch, whole in zip(objective.batches, wholes, strict=True):
        size = num_examples(batch)
        if size >= 2:
            cut = max(1, (size - 1) // 2)  # unequal, so that the weights matter
            _require_mean(whole, objective.part(split(batch, [cut, size - cut])))
    for heads in _groups_of_heads(objective.batches):  # batches of one example, or of one class, agree with any weights
        _require_mean(Seen.of(objective.part([concatenate(heads)])), objective.part(heads))


@dataclass(frozen=True)
class Seen:
    """What is kept of a batch's loss and gradient until they are computed again: not the whole gradient."""

    loss: float
    length: float
    projection: float  # of the gradient on random signs, which noise in any direction changes

    @classmethod
    def of(cls, part: Objective) -> Seen:
        """The loss and the gradient of a part at the objective's weights."""
        loss, gradient = part.loss_and_gradient(part.weights)
        signs = torch.randint(
            0, 2, gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.int8, device="cpu"
        )
        projection = torch.dot(gradient, (2 * signs - 1).to(gradient))
        return cls(loss.item(), torch.linalg.vector_norm(gradient).item(), projection.item())

    def is_near(self, other: Seen, tolerance: float) -> tuple[bool, bool]:
        """Whether the loss, and the gradient, are those of another way to compute them; not when one is NaN."""
        same = abs(self.loss - other.loss) <= tolerance * max(1.0, abs(self.loss))
        return same, abs(self.projection - other.projection) <= GRADIENTS * tolerance * max(1.0, self.length)

    def require_same(self, again: Seen, tolerance: float) -> None:
        """Another evaluation must have given the same, up to rounding."""
        moved = abs(self.loss - again.loss) + abs(self.projection - again.projection)
        if math.isfinite(self.loss) and not math.isfinite(self.projection):
            raise ValueError(
                "the gradient at the model's weights is not finite where the loss is; a landscape is measured where it "
                "has slopes. Look for roots, norms and logarithms of zero."
            )
        if not moved <= tolerance * max(1.0, abs(self.loss), self.length):  # also when it is NaN
            raise ValueError(
                f"the objective is not deterministic: the same weights and data gave loss {self.loss:.8g} and then "
                f"{again.loss:.8g} (loss or gradient moved by {moved:.2g}). Turn off dropout and noise."
            )


def _require_mean(whole: Seen, parts: Objective) -> None:
    together, weights = Seen.of(parts), parts.weights
    if parts.weight == 0:
        return
    same, slope = whole.is_near(together, _tolerance(weights))
    if not (same and slope) and narrows(lambda: parts.loss_and_gradient(weights)):
        same, slope = whole.is_near(together, _tolerance(weights.float()))
    if not (same and slope):  # losses that are all the same, as of a head of zeros, agree with any weights
        losses, slopes = (whole.loss, together.loss), (whole.projection, together.projection)
        what, pair = ("gradient, projected on random signs,", slopes) if same else ("loss", losses)
        raise ValueError(
            f"the {what} of a batch ({pair[0]:.8g}) is not the weighted mean over its parts "
            f"({pair[1]:.8g}), so batches cannot be put together. The loss must be a mean over what "
            "`denominator` counts (examples, unless the loss says otherwise), and the model must treat examples "
            "one by one; pass denominator=lambda outputs, targets: ... for what your loss divides by."
        )


def _groups_of_heads(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """The first two examples of each batch, in groups that can be put together and are no larger than a batch."""
    alike: dict[str, list[Batch]] = {}
    for batch in batches:
        head = take(batch, 0, HEAD)
        alike.setdefault(shape_of_examples(head), []).append(head)
    number = max(2, max(num_examples(batch) for batch in batches) // HEAD)
    for heads in alike.values():
        for start in range(0, len(heads) - 1, number - 1):  # neighbours overlap in one batch
            yield heads[start : start + number]


def _mean(losses: Sequence[float], weights: Sequence[float]) -> float:
    counted = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if weight != 0]
    total = sum(weight for _, weight in counted)
    return sum(loss * weight for loss, weight in counted) / total if total else math.nan


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn within it leaves the global random state of the CPU and of the device as it was."""
    context: AbstractContextManager[None] = torch.random.fork_rng(
        [device] if device.type != "cpu" else [], device_type=device.type
    )
    return context


def _tolerance(value: Tensor) -> float:
    """How far two evaluations that differ in rounding only may lie apart, relative to their size."""
    return float(torch.finfo(value.dtype).eps) * 1e3
