"""The time that a measurement has taken, the same on all processes that share it."""

from __future__ import annotations

import math

from torch import Tensor

from landscape.processes import Sharing


class Clock:
    """Seconds since it was made, as the first of the processes counts them, and a limit: all of them stop together.

    The time goes along with every exchange, and looking at it is none; a limit is one exchange, when the clock is made.

    Args:
        sharing: the processes.
        like: a tensor on the device that they exchange tensors on.
        limit: seconds; that of the first process counts.

    >>> import torch
    >>> from landscape.processes import Alone
    >>> clock = Clock(Alone(), like=torch.zeros(1), limit=60.0)
    >>> 0 <= clock.seconds <= clock.seconds, clock.is_over
    (True, False)
    """

    def __init__(self, sharing: Sharing, *, like: Tensor, limit: float = math.inf) -> None:
        self.limit = sharing.decided(limit, like=like) if limit < math.inf else limit
        self._sharing, self._begun = sharing, sharing.now

    @property
    def seconds(self) -> float:
        """What has gone by."""
        return self._sharing.now - self._begun

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached; the clock is not looked at where there is none."""
        return self.limit < math.inf and self.seconds >= self.limit
