"""Numbers as they are passed in, of Python or of numpy, turned into the plain ones that results are saved with."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


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


def not_negative(value: Any, name: str, *, what: str = "number") -> float:
    """A finite float of at least zero.

    Raises:
        TypeError: naming the argument, if it is of another type.
        ValueError: likewise, if it is negative or not finite.

    >>> not_negative(0, "rho")
    0.0
    """
    found = real(value, name)
    if not (math.isfinite(found) and found >= 0):
        raise ValueError(f"{name} must be a finite {what}, zero or more; got {found}")
    return found


def entries(values: Any, name: str) -> list[Any]:
    """What a list, an array or another iterable of settings holds.

    Raises:
        TypeError: naming the argument, if it is none, or text.

    >>> entries((1, 2), "sizes")
    [1, 2]
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} must be a list, such as [1, 2, 4]; got {values!r}")
    return list(values)


def reals(values: Any, name: str) -> npt.NDArray[np.float64]:
    """A list, a tuple, an array or a tensor of real numbers, ``(n,)`` in double precision.

    Raises:
        TypeError: naming the argument, if it holds anything but real numbers.
        ValueError: likewise, if it is empty or has another number of dimensions.

    >>> reals([1, 2], "x").tolist()
    [1.0, 2.0]
    """
    values = values.detach().cpu() if hasattr(values, "detach") else values
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        array = np.array(None)
    if array.size and array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be a list of real numbers; got {values!r}")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a list of numbers, not empty; got an array of shape {array.shape}")
    return array.astype(np.float64)


def seed_of(value: Any, name: str = "seed") -> int:
    """A seed that torch's generators take.

    Raises:
        TypeError: naming the argument, if it is no integer.
        ValueError: likewise, if it does not fit into 64 bits.

    >>> seed_of(3)
    3
    """
    seed = integer(value, name)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{name} must fit into 64 bits, from -2**63 to 2**64 - 1; got {value}")
    return seed


def pairs_of(value: Any, dim: int) -> int:
    """A number of eigenpairs that a matrix has.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below 1 or above the dimension.

    >>> pairs_of(2, 3)
    2
    """
    k = integer(value, "k")
    if not 1 <= k <= dim:
        raise ValueError(f"k must be between 1 and {dim}, the number of weights; got {k}")
    return k
