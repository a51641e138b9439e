"""The rise L_S(w + ε_S) − L_S(w) of every shard S of the data, in whichever way is quick."""

from landscape.rises.measurement import Measurement

__all__ = ["Measurement"]
