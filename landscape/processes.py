"""Who shares the work: this process alone, or the processes of a torch.distributed group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor


class ProcessLostError(ConnectionError):
    """Another process of the group has died or failed."""


class Sharing(ABC):
    """Processes that each take a part of the work, and add up what it comes to."""

    rank: int = 0
    number: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def block(self, count: int) -> range:
        """Which of ``count`` consecutive pieces of work are this process's; empty where there are more processes."""
        return range(self.rank * count // self.number, (self.rank + 1) * count // self.number)

    @abstractmethod
    def wait(self) -> None:
        """Go on when all processes have come here."""

    @abstractmethod
    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, the same on each of them, in one exchange."""


class Alone(Sharing):
    """This process, which has nobody to wait for."""

    def wait(self) -> None:
        """Go on."""

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The tensors themselves."""
        return list(parts)

    def __repr__(self) -> str:
        return "Alone()"


class Together(Sharing):
    """The processes of a torch.distributed group, whatever its backend.

    Args:
        group: the default group when left out.

    Raises:
        ValueError: if torch.distributed is not initialised.
    """

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError("there is no process group; call torch.distributed.init_process_group(), under torchrun")
        self.group = group
        self.rank: int = torch.distributed.get_rank(group)
        self.number: int = torch.distributed.get_world_size(group)

    def wait(self) -> None:
        """Go on when all processes have come here.

        Raises:
            ProcessLostError: if one of them has died.
        """
        try:
            torch.distributed.barrier(group=self.group)
        except RuntimeError as error:
            raise lost(error) from None

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all processes, by one all-reduce of all parts end to end, in the dtype of the first.

        Raises:
            ProcessLostError: if another process has died.
        """
        flat = torch.cat([part.reshape(-1).to(parts[0]) for part in parts])
        try:
            torch.distributed.all_reduce(flat, group=self.group)
        except RuntimeError as error:
            raise lost(error) from None
        pieces = torch.split(flat, [part.numel() for part in parts])
        return [piece.reshape(part.shape).to(part) for piece, part in zip(pieces, parts, strict=True)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.number})"


def lost(error: RuntimeError) -> ProcessLostError:
    """What torch says when a process is gone, in one sentence."""
    reason = str(error).splitlines()[0].rpartition("] ")[2] if "] " in str(error) else str(error).splitlines()[0]
    return ProcessLostError(f"another process is gone ({reason.split(' This is')[0].rstrip('. ')})")
