"""Double precision, on the device of what is computed where that has it, and on the CPU where it has not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part", bound=nn.Module)


@functools.cache
def has_double(device: torch.device) -> bool:
    """Whether a device can hold numbers in double precision: found out by making one."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def widest(device: torch.device) -> torch.dtype:
    """The precision that sums are taken in on a device: double, or single where there is no other."""
    return torch.float64 if has_double(device) else torch.float32


def place_of_double(device: torch.device) -> torch.device:
    """Where numbers of a device are taken to be computed with in double precision: there, or else to the CPU."""
    return device if has_double(device) else torch.device("cpu")


def doubled(tensor: Tensor) -> Tensor:
    """A tensor in double precision, on its device or else on the CPU.

    >>> doubled(torch.ones(2)).dtype
    torch.float64
    """
    return tensor.to(place_of_double(tensor.device)).double()


def doubled_copy(tensor: Tensor) -> Tensor:
    """Floating-point numbers in double precision, anything else as it is; all where double precision is."""
    return doubled(tensor) if tensor.is_floating_point() else tensor.to(place_of_double(tensor.device))


def doubled_module(module: Part) -> Part:
    """A module turned into double precision, where that is."""
    held = [*module.parameters(), *module.buffers()]
    return (module if all(has_double(tensor.device) for tensor in held) else module.cpu()).double()


def keeps_single(compute: Callable[[], object]) -> bool:
    """Whether a computation keeps numbers of single precision for its gradient, as norms of some models do in double.

    >>> keeps_single(lambda: torch.ones(2, dtype=torch.float64, requires_grad=True).exp())
    False
    """
    seen: set[torch.dtype] = set()

    def pack(tensor: Tensor) -> Tensor:
        seen.add(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return torch.float32 in seen
