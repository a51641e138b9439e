"""How images of 0 to 255 become what a model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from landscape.batches import Batch
from landscape.forward import supervised


@dataclass(frozen=True)
class NormalizedPixels:
    """A way to read a batch ``(images, targets)``: (x / 255 - mean) / std by channel, in the model's precision.

    Training, augmentation and measurement so have the same bytes, a quarter of the memory of single precision; and
    what a result says of its ``forward`` has the normalisation in it.

    Args:
        mean: of each channel on a scale of 0 to 1.
        std: likewise, its standard deviation.

    >>> read = NormalizedPixels(mean=(0.5,), std=(0.25,))
    >>> read(nn.Identity(), (torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.tensor([1])))[0].tolist()
    [[[[-2.0, 2.0]]]]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_sums(cls, sums: Tensor, *, pixels: int) -> NormalizedPixels:
        """From the sum Σ x and the sum of squares Σ x² over the pixels of each channel, integers ``(c, 2)``.

        A channel that is the same everywhere has no deviation, and is moved to zero alone.
        """
        means, stds = [], []
        for total, squares in sums.tolist():
            variance = Fraction(squares, pixels) - Fraction(total, pixels) ** 2  # exact, however many there are
            means.append(total / pixels / 255)
            stds.append(math.sqrt(variance) / 255 or 1.0)
        return cls(tuple(means), tuple(stds))

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        """Outputs and targets."""
        images, targets = batch
        return supervised(model, (self.normalized(images, _precision(model)), targets))

    def normalized(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Images ``(n, c, h, w)`` of 0 to 255 as a model of some precision takes them."""
        shift = [255 * mean for mean in self.mean]
        scale = [1 / (255 * std) for std in self.std]
        shape = (-1, *[1] * (images.ndim - 2))
        rows = (torch.tensor(row, dtype=dtype, device=images.device).view(shape) for row in (shift, scale))
        return (images.to(dtype) - next(rows)) * next(rows)


def _precision(model: nn.Module) -> torch.dtype:
    found = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(found, torch.get_default_dtype())
