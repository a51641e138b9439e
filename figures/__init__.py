"""Pictures of results: each function takes results by label and returns a matplotlib figure. Nothing is computed here.

``draw`` picks the function for the kind of the results.
"""

from figures.draw import draw
from figures.style import save

__all__ = ["draw", "save"]
