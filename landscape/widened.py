"""Double precision throughout: what a model or a loss casts to single precision inside would be rounded there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.batches import tensors


class Narrowing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches for operations that make less of a double.

    Attributes:
        seen: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation."""
        del types
        given = kwargs or {}
        result = func(*args, **given)
        if not self.seen and any(_is_narrow(part) for part in tensors(result)):
            self.seen = any(part.dtype == torch.float64 for part in itertools.chain(tensors(args), tensors(given)))
        return result


class Widened(TorchFunctionMode):
    """Within it float32 means float64, wherever it is asked for by name.

    Models that are made for half precision compute norms, softmax and losses in float32, as those of transformers do,
    with ``x.float()``, ``x.to(torch.float32)`` or ``dtype=torch.float32``. Of a double these make less.

    >>> with Widened():
    ...     torch.ones(2, dtype=torch.float64).float().dtype
    torch.float64
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out a call."""
        del types
        if func is Tensor.float:
            func = Tensor.double
        given = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **given)


def narrows(compute: Callable[[], object]) -> bool:
    """Whether a computation makes less of a double.

    >>> narrows(lambda: torch.ones(2, dtype=torch.float64).float())
    True
    """
    with Narrowing() as narrowing:
        compute()
    return bool(narrowing.seen)


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
