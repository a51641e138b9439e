"""One batch's contribution to an objective: Σ_b d_b · loss_b / Σ_b d_b is made of terms (loss_b, d_b)."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from landscape.batches import Batch, map_tensors, take
from landscape.checks import HEAD, require_functions, require_scalar
from landscape.denominators import Denominator, denominator_of
from landscape.forward import Forward, Names, Seam, call_with
from landscape.identity import name_of
from landscape.logits import LogitNormalized
from landscape.losses import Loss, loss_of
from landscape.manifest import hash_of_settings, hash_of_tensor
from landscape.parameters import ParameterSpace
from landscape.precision import doubled_copy, doubled_module, widest
from landscape.widened import narrows


@dataclass(frozen=True)
class Definition:
    """What all terms of an objective have in common."""

    seam: Seam
    loss: Loss
    denominator: Denominator
    space: ParameterSpace

    @classmethod
    def of(
        cls, model: nn.Module, loss: Loss, forward: Forward, denominator: Denominator | None, space: ParameterSpace
    ) -> Definition:
        """The definition by copies of everything that is given, so that it does not follow what becomes of that.

        The weights of the model are no part of it: where the loss or ``forward`` holds them, it goes on doing so.

        Raises:
            TypeError: if something is no function, or cannot be copied.
            ValueError: if the loss is set to a sum, or to no reduction at all.
        """
        require_functions({"loss": loss, "forward": forward, "denominator": denominator or denominator_of(loss)})
        named = dict(model.named_parameters())
        held = {id(named[name]): named[name] for name in space.names}
        loss, forward, denominator = (
            _copied(part, name, dict(held))
            for part, name in ((loss, "loss"), (forward, "forward"), (denominator, "denominator"))
        )
        seam = Seam(_copied(model, "model", {}).requires_grad_(False), forward)
        return cls(seam, loss, denominator or denominator_of(loss), space)

    def settings(self) -> dict[str, str]:
        """What tells the definition from others, for a manifest."""
        model = self.seam.model
        return {
            "loss": name_of(self.loss),
            "reduction": f"mean over {name_of(self.denominator)}",
            "forward": name_of(self.seam.read),
            "mode": "training" if model.training else "evaluation",
            "architecture": hash_of_settings({"modules": repr(model)}),
            **({"casts": "to float32 left out"} if self.seam.is_wide else {}),
        }

    def hash_of_fixed(self) -> str:
        """A hash of the model's numbers that are no part of w: other parameters, and buffers."""
        model = self.seam.model
        named = [*model.named_parameters(), *model.named_buffers()]
        return hash_of_settings({name: hash_of_tensor(part) for name, part in named if name not in self.space.names})

    def subject(self, w: Tensor) -> dict[str, Any]:
        """The model with its numbers, for a manifest."""
        return {
            "model": type(self.seam.model).__name__,
            "weights": hash_of_tensor(w),
            "fixed": self.hash_of_fixed(),
        }

    def kernels(self) -> AbstractContextManager[None]:
        """Within it, recurrent layers are computed step by step: the vendors' kernels have no second derivative."""
        return torch.backends.cudnn.flags(enabled=False) if self._is_recurrent else nullcontext()

    @functools.cached_property
    def _is_recurrent(self) -> bool:
        return any(isinstance(part, nn.RNNBase) for part in self.seam.modules())

    def with_weights(self, w: Tensor) -> Definition:
        """The same with w, ``(dim,)``, as the model's own weights."""
        seam = copy.deepcopy(self.seam)
        named = dict(seam.model.named_parameters())
        for name, block in self.space.unflatten(w).items():
            named[name].data.copy_(block)
        return replace(self, seam=seam)

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Definition:
        """The same with other numbers in some buffers of the model.

        Raises:
            ValueError: naming a buffer that the model has not, or whose shape is another.
        """
        seam = copy.deepcopy(self.seam)
        named = dict(seam.model.named_buffers())
        for name, numbers in buffers.items():
            if name not in named or named[name].shape != numbers.shape:
                shape = tuple(named[name].shape) if name in named else "no such buffer"
                raise ValueError(f"buffers[{name!r}] has shape {tuple(numbers.shape)}; the model has {shape}")
            named[name].data.copy_(numbers)
        return replace(self, seam=seam)

    def without_casts(self, w: Tensor, batches: Sequence[Batch]) -> Definition:
        """The same without casts to single precision, where the weights are doubles and there are some.

        It stays as it is where that cannot be computed, as of a model with parts that are float32 themselves.

        Args:
            w: weights, ``(dim,)``.
            batches: the first examples of the first show whether there are some.
        """
        if w.dtype != torch.float64 or not batches:
            return self
        head = take(batches[0], 0, HEAD)
        with contextlib.suppress(Exception), torch.no_grad():  # what fails here fails again where it is said why
            if narrows(lambda: Term(self, head).loss(w)):
                wide = replace(self, seam=copy.deepcopy(self.seam))
                wide.seam.is_wide = True
                Term(wide, head).loss(w)
                return wide
        return self

    def doubled(self) -> Definition:
        """The same in double precision, as far as the numbers lie in modules and in ``functools.partial``."""
        return replace(self, seam=doubled_module(copy.deepcopy(self.seam)), loss=_doubled_loss(self.loss))


class Term:
    """The loss of one batch as a function of w; ``count`` is its denominator d_b once the loss has been evaluated.

    Each evaluation starts from the same buffers: what a model counts or remembers in them is forgotten again.
    """

    def __init__(self, definition: Definition, batch: Batch, *, start: int = 0) -> None:
        self.definition = definition
        self.batch = batch
        self.start = start  # how many examples of the data come before
        self.count: Tensor | float = 0
        self.targets: Any = None  # what ``forward`` made of the batch, once the outputs have been computed

    def outputs(self, w: Tensor) -> Tensor:
        """The model's outputs for this batch."""
        return self.outputs_of(self.definition.space.split(w))

    def outputs_of(self, blocks: Sequence[Tensor]) -> Tensor:
        """The same as a function of the weights' blocks."""
        named = {f"model.{name}": block for name, block in zip(self.definition.space.names, blocks, strict=True)}
        seam = self.definition.seam
        with self.definition.kernels():
            outputs, self.targets = call_with(seam, _fresh_buffers(seam) | named, self.batch)
        self.count = self.definition.denominator(outputs, self.targets)
        return outputs  # type: ignore[no-any-return]

    def loss_of_outputs(self, outputs: Tensor) -> Tensor:
        """The loss as a function of the outputs, a scalar."""
        function = self.definition.loss
        if isinstance(function, nn.Module):
            function = functools.partial(call_with, function, _fresh_buffers(function))
        with self.definition.seam.casts():
            loss = loss_of(function, outputs, self.targets)
        require_scalar(loss)
        return loss

    def loss(self, w: Tensor) -> Tensor:
        """The loss as a function of the weights, a scalar."""
        return self.loss_of(self.definition.space.split(w))

    def loss_of(self, blocks: Sequence[Tensor]) -> Tensor:
        """The same as a function of the weights' blocks."""
        return self.loss_of_outputs(self.outputs_of(blocks))


class Mean:
    """The running sum Σ_b d_b · value_b and the weight Σ_b d_b; a batch with d_b = 0 does not count."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._only: Tensor | None = None  # the value of the first batch, until there is a second
        self.weight: Tensor | float = 0

    def add(self, value: Tensor, count: Tensor | float) -> None:
        """Take in the value of one batch. Scalars are summed in double precision."""
        number: Tensor | float = count
        if isinstance(count, Tensor) and count.device.type == "cpu":  # elsewhere looking at it would wait for it
            number = count.item()
        if isinstance(number, Tensor):
            value = torch.where(number == 0, torch.zeros_like(value), value)  # a mean over nothing is NaN
        elif number == 0:
            value = torch.zeros_like(value)
        value = value.to(_precision_of_sums(value))
        if self._only is None and self._total is None and not isinstance(number, Tensor):
            self._only = value.clone()
        elif self._total is None and self._only is None:
            self._total = value * number
        else:
            self._total = self._sum().add_(value * number)
            self._only = None
        self.weight = self.weight + number

    def total_like(self, value: Tensor) -> Tensor:
        """The sum so far, of the dtype it is summed in; zeros of the shape of ``value`` where there was none."""
        if self._total is None and self._only is None:
            return torch.zeros_like(value, dtype=_precision_of_sums(value))  # processes exchange them
        return self._sum().reshape(value.shape)

    @property
    def value(self) -> Tensor:
        """The mean so far."""
        if self._total is None and self._only is None:
            raise ValueError("a mean over no batch is not defined")
        if self._only is not None and self.weight != 0:
            return self._only
        return self._sum() / self.weight

    def _sum(self) -> Tensor:
        if self._only is not None:
            return self._only * self.weight
        assert self._total is not None
        return self._total


def _precision_of_sums(value: Tensor) -> torch.dtype:
    return widest(value.device) if value.ndim == 0 else value.dtype


def _fresh_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in Names.of(module).buffers.items()}


def _copied(part: Any, name: str, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(part, memo)
    except Exception as error:  # whatever its parts raise
        raise TypeError(
            f"{name} cannot be copied ({' '.join(str(error).split())[:200]}); an objective works on copies. "
            "Leave out what it holds besides numbers and layers, old hooks, open files and graphs."
        ) from None


def _doubled_loss(loss: Loss) -> Loss:
    if isinstance(loss, LogitNormalized):
        return LogitNormalized(_doubled_loss(loss.loss))
    if isinstance(loss, nn.Module):
        return doubled_module(copy.deepcopy(loss))
    if isinstance(loss, functools.partial):
        return functools.partial(
            loss.func, *map_tensors(doubled_copy, loss.args), **map_tensors(doubled_copy, loss.keywords)
        )
    return loss
