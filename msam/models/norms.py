"""Normalisation layers by the number of their channels."""

from __future__ import annotations

from torch import nn


def group_norm(channels: int) -> nn.Module:
    """Group normalisation with four channels to a group."""
    return nn.GroupNorm(channels // 4, channels)
