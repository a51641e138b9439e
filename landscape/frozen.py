"""Nested dictionaries and lists that cannot be changed, and are equal to, and written like, ordinary ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn


def frozen(value: Any) -> Any:
    """A deep copy of nested mappings and sequences in which nothing can be changed; other values are kept as they are.

    >>> given = {"k": [1, 2]}
    >>> frozen(given) == given
    True
    >>> frozen(given)["k"].append(3)
    Traceback (most recent call last):
    TypeError: a manifest cannot be changed; change a copy of it, as json.loads(json.dumps(manifest)) makes one
    """
    if isinstance(value, Mapping):
        return FrozenDict((key, frozen(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return FrozenList(frozen(part) for part in value)
    return value


def _refuse(*arguments: Any, **named: Any) -> NoReturn:
    del arguments, named
    raise TypeError("a manifest cannot be changed; change a copy of it, as json.loads(json.dumps(manifest)) makes one")


class FrozenDict(dict[str, Any]):
    """A dictionary that cannot be changed."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen, (dict(self),)  # a copy of a dictionary is otherwise filled item by item


class FrozenList(list[Any]):
    """A list that cannot be changed."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen, (list(self),)
