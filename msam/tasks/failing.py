"""What a task of the user's own fails with, as a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from landscape.memory import is_out_of_memory


def said(error: BaseException) -> str:
    """The kind of an error and its words, in one line.

    >>> said(KeyError("x"))
    "KeyError: 'x'"
    """
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


@contextlib.contextmanager
def blaming(task: str, *, where: str) -> Iterator[None]:
    """What fails within is the model, the forward or the loss of a task, and the error says so.

    Those that speak to the user stay as they are: a ``ValueError``, an ``OSError``, and that memory has run out.

    Args:
        task: its name.
        where: completes "the task ... failed ...".

    Raises:
        ValueError: in place of other errors.

    >>> with blaming("mine", where="in epoch 1"):
    ...     1 / 0
    Traceback (most recent call last):
    ...
    ValueError: the task mine failed in epoch 1 with ZeroDivisionError: division by zero; MSAM_TRACEBACK=1 shows where
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError | OSError) or is_out_of_memory(error):
            raise
        raise ValueError(f"the task {task} failed {where} with {said(error)}; MSAM_TRACEBACK=1 shows where") from error
