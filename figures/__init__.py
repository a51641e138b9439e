"""Pictures of results: each function takes results by label and returns a matplotlib figure. Nothing is computed here.

``draw`` picks the function for the kind of the results; ``draw_surface`` is another picture of planes.
:mod:`figures.interactive` has surfaces to turn in a browser.

Names are imported when they are first asked for, so that tables on a terminal need not wait for matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from figures.drawing import draw as draw
    from figures.style import save as save
    from figures.surface import draw_surface as draw_surface

_HOME = {"draw": "drawing", "draw_surface": "surface", "save": "style"}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'figures' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"figures.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
