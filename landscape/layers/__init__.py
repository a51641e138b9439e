"""Layers with weights of their own for every micro-batch, w + ε_i, all micro-batches in one call."""

from landscape.layers.plan import Plan
from landscape.layers.sites import Passes, Site, UnsupportedError

__all__ = ["Plan", "Passes", "Site", "UnsupportedError"]
