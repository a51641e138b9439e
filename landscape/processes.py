"""Who shares the work: this process alone, or the processes of a torch.distributed group."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, TypeVar

import torch
import torch.distributed
from torch import Tensor

from landscape.bits import PIECES, in_two, pieces_of

T = TypeVar("T")


class ProcessLostError(ConnectionError):
    """Another process of the group has died or failed."""


class ApartError(ValueError):
    """The processes have found different numbers where all of them must go on with the same."""

    def __init__(self) -> None:
        super().__init__(
            "the processes multiply different vectors with the parts of one matrix, or only some of them have ended; "
            "give each of them the same vectors, seeds and settings"
        )


class Sharing(ABC):
    """Processes that each take a part of the work, and add up what it comes to.

    Attributes:
        rank: which of them this is, from 0 on.
        number: how many there are.
        alike: whether they are taken to compute the same bits from the same numbers, as machines of one kind do.
            Every product finds out whether they have; see :func:`attempted`.
    """

    rank: int = 0
    number: int = 1
    alike: bool = True

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def decided(self, value: float, *, like: Tensor, failure: Exception | None = None) -> float:
        """The number of the first process, on each of them: what hangs on clocks or on memory is decided by one.

        Args:
            value: this process's own.
            like: a tensor on the device that the processes exchange tensors on; the number is rounded to its dtype.
            failure: what went wrong here; raised when the others know of it.
        """
        if self.number == 1 and failure is None:
            return value
        own = like.new_full((1,), value if self.is_first else 0.0)
        return float(self.summed_unless_failed([own], failure)[0])

    def require_all(self, failure: Exception | None, *, device: torch.device) -> None:
        """Every process has come so far: one exchange.

        Args:
            failure: what went wrong here; raised when the others know of it.
            device: that the processes exchange tensors on.

        Raises:
            ProcessLostError: if another process has died or failed.
        """
        self.decided(0.0, like=torch.zeros(1, device=device), failure=failure)

    def found(self, value: float, *, like: Tensor) -> float:
        """What each process has found from the same numbers: its own where they compute alike, else the first one's."""
        return value if self.alike else self.decided(value, like=like)

    def led(self, vectors: Tensor) -> Tensor:
        """Vectors that each process has computed: its own where they compute alike, else the first one's."""
        return vectors

    @property
    def now(self) -> float:
        """Seconds on the clock of the first process, at the last exchange where there are others."""
        return time.monotonic()

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

    @abstractmethod
    def summed_unless_failed(
        self, parts: Sequence[Tensor], failure: Exception | None, *, same: Tensor | None = None
    ) -> list[Tensor]:
        """:meth:`summed`, once each process has done its part or failed: the others wait for it, and are told.

        Args:
            parts: of this process, of any numbers where it has failed.
            failure: what went wrong here; raised when the others know of it.
            same: numbers that every process must have found alike, to the last bit; a checksum of them goes along.

        Raises:
            ProcessLostError: if another process has died or failed.
            ApartError: if the processes have not found the same numbers; all of them are told.
        """


class Alone(Sharing):
    """This process, which has nobody to wait for."""

    def wait(self) -> None:
        """Go on."""

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The tensors themselves."""
        return list(parts)

    def summed_unless_failed(
        self, parts: Sequence[Tensor], failure: Exception | None, *, same: Tensor | None = None
    ) -> list[Tensor]:
        """The tensors themselves."""
        del same
        if failure is not None:
            raise failure
        return self.summed(parts)

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
        self._now = 0.0

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

    def summed_unless_failed(
        self, parts: Sequence[Tensor], failure: Exception | None, *, same: Tensor | None = None
    ) -> list[Tensor]:
        """See :class:`Sharing`; the failures, the checksum and the first one's clock go along in the one exchange."""
        like = parts[0]
        facts = like.new_zeros(3 + PIECES)
        facts[0] = float(failure is not None)
        if self.is_first:
            facts[1:3] = in_two(time.monotonic(), like=like)
        if same is not None:
            facts[3:] = pieces_of(same) * (1 - self.number if self.is_first else 1)  # equal ones add up to zero
        try:
            *sums, facts = self.summed([*parts, facts])
        finally:
            if failure is not None:
                raise failure
        failures, coarse, rest, *apart = facts.tolist()
        self._now = coarse + rest
        if failures > 0:
            raise ProcessLostError("another process has failed; the reason is what that one says")
        if any(apart):
            raise ApartError
        return sums

    @property
    def now(self) -> float:
        """See :class:`Sharing`."""
        return self._now

    def led(self, vectors: Tensor) -> Tensor:
        """See :class:`Sharing`.

        Raises:
            ProcessLostError: if another process has died.
        """
        if self.alike:
            return vectors
        own = vectors.clone(memory_format=torch.contiguous_format)
        self.take_from_first([own])
        return own

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


def attempted(sharing: Sharing, ask: Callable[[], T]) -> T:
    """What is asked, with one exchange for each product where the processes compute alike.

    Where a product or the end shows that they do not, as machines of several kinds may round differently, it is asked
    anew: the first process then leads, whose vectors and findings the others take over in exchanges of their own.

    Raises:
        ApartError: if the processes have been asked different questions.
    """
    try:
        return ask()
    except ApartError:
        if not sharing.alike:
            raise
        sharing.alike = False
    return ask()
