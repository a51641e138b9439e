"""Numbers as they are passed in, of Python or of numpy, turned into the plain ones that results are saved with."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def integer(value: Any, name: str) -> int:
    """An int for any whole-number type, such as ``np.int64``.

    Raises:
        TypeError: naming the argument, if it is of another type.

    >>> integer(3, "k")
    3
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an integer; got {value!r}")


def real(value: Any, name: str) -> float:
    """A float for any real-number type, such as ``np.float32``.

    Raises:
        TypeError: naming the argument, if it is of another type.

    >>> real(1, "tol")
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {value!r}")
    return float(value)
