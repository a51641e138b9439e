"""The time that a measurement has taken, the same on all processes that share it."""

from __future__ import annotations

import time

from torch import Tensor

from landscape.processes import Sharing


class Clock:
    """Seconds since it was made, as the first of the processes counts them: all of them stop together.

    Looking at it is one exchange of a single number, which each process must take part in.

    Args:
        sharing: the processes.
        like: a tensor on the device that they exchange tensors on.

    >>> import torch
    >>> from landscape.processes import Alone
    >>> clock = Clock(Alone(), like=torch.zeros(1))
    >>> 0 <= clock.seconds <= clock.seconds
    True
    """

    def __init__(self, sharing: Sharing, *, like: Tensor) -> None:
        self._sharing, self._like = sharing, like
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """What has gone by."""
        return self._sharing.decided(time.monotonic() - self._begun, like=self._like)
