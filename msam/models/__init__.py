"""Models that are built in."""

from msam.models.norms import group_norm
from msam.models.patches import PatchNet
from msam.models.small import cnn, mlp

__all__ = ["mlp", "cnn", "PatchNet", "group_norm"]
