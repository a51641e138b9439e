"""What the first pass of a micro-batch leaves behind that the second must neither see twice nor change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

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
    waiting = [] if module is None else [module]
    seen: set[int] = set()
    for part in waiting:  # which grows; ``modules()`` puts together names, which takes much longer
        if id(part) not in seen:
            seen.add(id(part))
            waiting += [child for child in part._modules.values() if child is not None]
            kept += [(part._buffers, k, b, b.detach().clone()) for k, b in part._buffers.items() if b is not None]
    return kept


def _put_back(kept: Copies) -> None:
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
            torch.get_device_module(device).manual_seed(seed)

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


@contextlib.contextmanager
def weights_kept(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Put weights back at the end, from copies: w + ε − ε would differ from w.

    Yields:
        The copies.
    """
    copies = [parameter.detach().clone() for parameter in parameters]
    try:
        yield copies
    finally:
        copy_into(parameters, copies)


def copy_into(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Overwrite parameters in place."""
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), list(values))
