"""What the first pass of a micro-batch leaves behind that the second must neither see twice nor change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Self

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def buffers_kept(module: nn.Module | None) -> Iterator[None]:
    """Put all buffers of a module back at the end, from copies.

    Running batch-norm statistics are then those of the clean pass alone; a module that is None has no buffers.
    A buffer that is replaced by another tensor, as in ``self.average = ...``, is put back just as well.
    """
    kept = _copies_of_buffers(module)
    try:
        yield
    finally:
        _put_back(kept)


@contextlib.contextmanager
def buffers_kept_on_error(module: nn.Module | None) -> Iterator[None]:
    """Put all buffers of a module back if an error leaves this block, and only then."""
    kept = _copies_of_buffers(module)
    try:
        yield
    except BaseException:
        _put_back(kept)
        raise


Copies = list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]]


def _copies_of_buffers(module: nn.Module | None) -> Copies:
    kept: Copies = []
    waiting: list[nn.Module | None] = [module]
    seen: set[int] = set()
    for part in waiting:  # which grows; ``modules()`` puts together names, which takes much longer
        if part is None or not (part._modules or part._buffers) or id(part) in seen:
            continue
        seen.add(id(part))
        waiting.extend(part._modules.values())
        for name, buffer in part._buffers.items():
            if buffer is not None:
                kept.append((part._buffers, name, buffer, buffer.detach().clone()))
    return kept


def _put_back(kept: Copies) -> None:
    if not kept:
        return
    with torch.no_grad():
        for registry, name, buffer, copy in kept:
            registry[name] = buffer.copy_(copy)


class RandomState:
    """The random state of the CPU and of one device, taken when made, to draw the same numbers again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states = {"cpu": torch.get_rng_state()}
        if device.type != "cpu":
            self.states[device.type] = torch.get_device_module(device).get_rng_state(device)

    @staticmethod
    def seed(seed: int, device: torch.device) -> None:
        """Seed the CPU and one device, and no other."""
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)  # which seeds the current one

    @property
    def is_current(self) -> bool:
        """Whether no number has been drawn since."""
        now = RandomState(self.device).states
        return all(torch.equal(state, now[name]) for name, state in self.states.items())

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.states["cpu"])
        if self.device.type in self.states and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(self.states[self.device.type], self.device)


class WeightsKept:
    """Weights that are moved, and put back from copies: w + ε − ε would differ from w.

    At the end of its block they are in their places, also after an error. Copies are of the weights before a move; what
    is there from the last one is used again unless something else has been written into the weights.

    Args:
        parameters: the weights.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self._which: list[bool] = []
        self._moved: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._versions: list[int] = []  # of what is moved, when it was last in its place
        self._away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._away:
            self.put_back()

    def move(self, shift: Sequence[Tensor | None]) -> None:
        """To w + ε, where ε is not None."""
        which = [epsilon is not None for epsilon in shift]
        with torch.no_grad():
            if which != self._which or self._current != self._versions:
                self._which, self._moved = which, list(compress(self.parameters, which))
                self._copies = [weight.clone() for weight in self._moved]
            self._away = True
            torch._foreach_add_(self._moved, [epsilon for epsilon in shift if epsilon is not None])

    def put_back(self) -> None:
        """To w."""
        with torch.no_grad():
            torch._foreach_copy_(self._moved, self._copies)
        self._versions = self._current
        self._away = False

    @property
    def _current(self) -> list[int]:
        return [weight._version for weight in self._moved]
