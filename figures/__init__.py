"""Pictures of results: each function takes results by label and returns a matplotlib figure. Nothing is computed here.

``draw`` picks the function for the kind of the results; ``draw_surface`` is another picture of planes.
:mod:`figures.interactive` has surfaces to turn in a browser.
"""

from figures.draw import draw
from figures.style import save
from figures.surface import draw_surface

__all__ = ["draw", "draw_surface", "save"]
