"""How much memory there is, how much a graph takes, and whether it has run out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from landscape.batches import Batch, tensors

SHARE_OF_DATA = 0.25  # of the free memory of a device, that data may take there
_NO_MEMORY = (  # in what torch says on the CPU, and of sizes beyond all counting
    *("can't allocate memory", "not enough memory"),
    *("storage size calculation overflowed", "overflow when unpacking long"),
)
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # what a container or a job of a cluster may take


@dataclass
class Graph:
    """What autograd has saved for backward passes.

    Attributes:
        num_bytes: of all the storages together, each counted once.
    """

    num_bytes: int = 0


@contextmanager
def graph_measured(*, without: Sequence[Tensor] = ()) -> Iterator[Graph]:
    """Within it, what graphs save for their backward passes is counted, but for tensors that are there anyway."""
    graph, seen = Graph(), {tensor.untyped_storage().data_ptr() for tensor in without}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            graph.num_bytes += storage.nbytes()
        return tensor.detach()  # an operation that saves its own output would otherwise hold itself, and never be freed

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield graph


def available_bytes(device: torch.device) -> int:
    """The memory that could be taken on a device now, in bytes; 4 GiB where the system does not tell."""
    if device.type != "cpu":
        memory = getattr(getattr(torch, device.type, None), "mem_get_info", None)
        return int(memory(device)[0]) if memory else 4 * 2**30
    found = [_available_by_kernel(), _left_of_control_group()]
    return min((number for number in found if number is not None), default=4 * 2**30)


def fits(batch: Batch, device: torch.device) -> bool:
    """Whether data may be brought to a device to stay: they are there, or leave most of its free memory to the work."""
    there = [tensor for tensor in tensors(batch) if tensor.device != device]
    return sum(tensor.nbytes for tensor in there) <= SHARE_OF_DATA * available_bytes(device) if there else True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory for a tensor, or could not be any."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | TypeError) and any(words in said for words in _NO_MEMORY)


def in_words(num_bytes: float) -> str:
    """A number of bytes for a person.

    >>> in_words(3 * 2**20)
    '3.0 MiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} bytes" if unit == "bytes" else f"{num_bytes:.1f} {unit}"


def _available_by_kernel() -> int | None:
    about = Path("/proc/meminfo")
    if about.is_file():
        for line in about.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 2**10
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):  # not known here
        return None


def _left_of_control_group() -> int | None:
    read: Callable[[str], str] = lambda name: (_CONTROL_GROUP / name).read_text().strip()  # noqa: E731
    try:
        return max(0, int(read("memory.max")) - int(read("memory.current")))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
