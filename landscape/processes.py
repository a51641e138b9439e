"""Who shares the work: this process alone, or the processes of a torch.distributed group."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
import torch.distributed
from torch import Tensor


class ProcessLostError(ConnectionError):
    """Another process of the group has died or failed."""


class Sharing(ABC):
    """Processes that each take a part of the work, and add up what it comes to.

    Attributes:
        rank: which of them this is, from 0 on.
        number: how many there are.
    """

    rank: int = 0
    number: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def decided(self, value: float, *, like: Tensor) -> float:
        """The number of the first process, on each of them: what hangs on clocks or on memory is decided by one.

        Args:
            value: this process's own.
            like: a tensor on the device that the processes exchange tensors on; the number is rounded to its dtype.
        """
        if self.number == 1:
            return value
        own = like.new_full((1,), value if self.is_first else 0.0)
        return float(self.summed([own])[0])

    def block(self, count: int, *, rank: int | None = None) -> range:
        """Which of ``count`` consecutive pieces of work a process takes, this one when no other is named.

        It is empty for some where there are more processes than pieces.
        """
        rank = self.rank if rank is None else rank
        return range(rank * count // self.number, (rank + 1) * count // self.number)

    @abstractmethod
    def wait(self) -> None:
        """Go on when all processes have come here."""

    @abstractmethod
    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, the same on each of them, in one exchange."""

    def summed_unless_failed(self, parts: Sequence[Tensor], failure: Exception | None) -> list[Tensor]:
        """:meth:`summed`, once each process has done its part or failed: the others wait for it, and are told.

        Args:
            parts: of this process, of any numbers where it has failed.
            failure: what went wrong here; raised when the others know of it.

        Raises:
            ProcessLostError: if another process has died or failed.
        """
        failed = parts[0].new_full((1,), float(failure is not None))
        try:
            *sums, failures = self.summed([*parts, failed])
        finally:
            if failure is not None:
                raise failure
        if float(failures) > 0:
            raise ProcessLostError("another process has failed; the reason is what that one says")
        return sums


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

    consequence: ClassVar[str] = ""  # what is to be said where a process is lost

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError("there is no process group; call torch.distributed.init_process_group(), under torchrun")
        self.group = group
        self.rank = torch.distributed.get_rank(group)
        self.number = torch.distributed.get_world_size(group)

    def wait(self) -> None:
        """Go on when all processes have come here.

        Raises:
            ProcessLostError: if one of them has died.
        """
        with self._messages():
            torch.distributed.barrier(group=self.group)

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all processes, by one all-reduce of all parts end to end, in the dtype of the first.

        Raises:
            ProcessLostError: if another process has died.
        """
        flat = torch.cat([part.reshape(-1).to(parts[0]) for part in parts])
        with self._messages():
            torch.distributed.all_reduce(flat, group=self.group)
        pieces = torch.split(flat, [part.numel() for part in parts])
        return [piece.reshape(part.shape).to(part) for piece, part in zip(pieces, parts, strict=True)]

    def from_all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape, in the order of their ranks.

        Raises:
            ProcessLostError: if another process has died.
        """
        found = [torch.empty_like(tensor) for _ in range(self.number)]
        with self._messages():
            torch.distributed.all_gather(found, tensor, group=self.group)
        return found

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process.

        Raises:
            ProcessLostError: if another process has died.
        """
        first = 0 if self.group is None else torch.distributed.get_global_rank(self.group, 0)
        with self._messages():
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=first, group=self.group)

    @contextlib.contextmanager
    def _messages(self) -> Iterator[None]:
        """Within it, what torch says when a process is gone becomes one sentence."""
        try:
            yield
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            reason = first.rpartition("] ")[2] if "] " in str(error) else first
            said = f"another process is gone ({reason.split(' This is')[0].rstrip('. ')}){self.consequence}"
            raise ProcessLostError(said) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.number})"
