"""Numbers as they are passed in, of Python or of numpy, turned into the plain ones that results are saved with."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def integer(value: Any, name: str, *, least: int | None = None) -> int:
    """An int for any whole-number type, such as ``np.int64``.

    Raises:
        TypeError: naming the argument, if it is of another type.
        ValueError: likewise, if it is below the least.

    >>> integer(3, "k")
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return number


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
