"""Packages that only some tasks and models need, and the command that installs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Imports of an extra: where its package is missing, the sentence names the command that installs it.

    Args:
        name: of the extra.
        purpose: what needs it, the beginning of the sentence.

    Raises:
        ValueError: if a package is missing.

    >>> with extra("hf", "tokens"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    ValueError: tokens need no_such_package; install the extra: pip install 'msam-landscape[hf]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "a package").split(".")[0]
        raise ValueError(f"{purpose} need {missing}; install the extra: pip install 'msam-landscape[{name}]'") from None
