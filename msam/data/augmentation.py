"""Augmentation: examples changed at random in training, and never in a measurement."""

from __future__ import annotations

import difflib
import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landscape.arguments import integer
from msam.data.mixup import MixUp

AUGMENTATIONS = ("crop", "flip", "cutout", "mixup")
_AUGMENTATION = 0x617567  # keeps these draws apart from those that are seeded with the same numbers elsewhere


class Augmentation(Protocol):
    """A batch changed at random: ``(inputs, targets, draws=...) -> (inputs, targets)``, of as many examples.

    All random numbers come from ``draws``, on the CPU, one set of them for each example of the batch, so that a batch
    becomes the same on every device; of shared batches each process augments the whole.
    """

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The batch as it is trained on."""


def draws_of(seed: int, epoch: int, step: int) -> np.random.Generator:
    """The random numbers of one step: they depend on these three alone, so that they are the same after a resume."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, step, _AUGMENTATION])))


class Crop:
    """Each image moved by up to ``padding`` pixels along each axis, what comes in from outside being zero.

    The image is padded on all sides, and a window of its own size is cut out, at one of (2·padding + 1)² places with
    the same chance (He et al. 2016, arXiv 1512.03385, section 4.2).

    Args:
        padding: pixels on each side, from 0 on.

    Raises:
        ValueError: if the padding is negative.

    >>> image = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).view(1, 1, 3, 3)
    >>> Crop(padding=1).windows(image, torch.tensor([1]), torch.tensor([2])).view(3, 3).tolist()
    [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = integer(padding, "padding", least=0)

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A window of each image."""
        require_images(inputs)
        top, left = draws.integers(0, 2 * self.padding + 1, size=(2, len(inputs)))
        return self.windows(inputs, torch.from_numpy(top), torch.from_numpy(left)), targets

    def windows(self, inputs: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """The windows whose first row and column are given, ``(n,)`` each, counted in the padded images."""
        n, channels, height, width = inputs.shape
        padded = functional.pad(inputs, [self.padding] * 4)
        rows = (top[:, None] + torch.arange(height, device=top.device)).to(inputs.device)  # (n, height)
        columns = (left[:, None] + torch.arange(width, device=left.device)).to(inputs.device)  # (n, width)
        image = torch.arange(n, device=inputs.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=inputs.device).view(1, -1, 1, 1)
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def __repr__(self) -> str:
        return f"Crop(padding={self.padding})"


class Flip:
    """Each image mirrored, left to right, with a chance of one half; for digits and letters that is another sign."""

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Half of the images mirrored."""
        require_images(inputs)
        coins = torch.from_numpy(draws.integers(0, 2, size=len(inputs)) == 1)
        return self.mirrored(inputs, coins), targets

    def mirrored(self, inputs: Tensor, which: Tensor) -> Tensor:
        """The images with those mirrored that ``which``, ``(n,)`` of truth values, names."""
        return torch.where(which.to(inputs.device).view(-1, 1, 1, 1), inputs.flip(-1), inputs)

    def __repr__(self) -> str:
        return "Flip()"


class Cutout:
    """A square of each image set to zero, around a pixel drawn from all of it (DeVries, Taylor 2017, arXiv 1708.04552).

    The square reaches from ``size // 2`` pixels before its centre on and is clipped at the borders, so that less of an
    image may be hidden. Zero is what pixels of 0 to 255 call black; in the paper images are normalised before, and zero
    is their mean.

    Args:
        size: of a side, in pixels, from 0 on.

    Raises:
        ValueError: if the size is negative.

    >>> Cutout(2).without(torch.ones(1, 1, 3, 4), torch.tensor([0]), torch.tensor([2])).view(3, 4).tolist()
    [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, size: int) -> None:
        self.size = integer(size, "size", least=0)

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The images without their squares."""
        require_images(inputs)
        height, width = inputs.shape[2:]
        rows, columns = draws.integers(0, height, size=len(inputs)), draws.integers(0, width, size=len(inputs))
        return self.without(inputs, torch.from_numpy(rows), torch.from_numpy(columns)), targets

    def without(self, inputs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The images without the squares around the given centres, ``(n,)`` each."""
        down = self._hidden(rows.to(inputs.device), inputs.shape[2])  # (n, height)
        across = self._hidden(columns.to(inputs.device), inputs.shape[3])  # (n, width)
        return inputs.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0)

    def _hidden(self, centres: Tensor, length: int) -> Tensor:
        before = torch.arange(length, device=centres.device) - (centres[:, None] - self.size // 2)
        return (before >= 0) & (before < self.size)

    def __repr__(self) -> str:
        return f"Cutout({self.size})"


class Composed:
    """One augmentation after another.

    Args:
        parts: in the order in which they are applied.
    """

    def __init__(self, *parts: Augmentation) -> None:
        self.parts = parts

    def __call__(self, inputs: Tensor, targets: Tensor, *, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The batch after all of them."""
        for part in self.parts:
            inputs, targets = part(inputs, targets, draws=draws)
        return inputs, targets

    def __repr__(self) -> str:
        return f"Composed({', '.join(map(repr, self.parts))})"


def require_images(inputs: object) -> None:
    """What is cropped, flipped or cut must be images.

    Raises:
        TypeError: if it is no tensor ``(n, channels, height, width)``.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        found = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"crop, flip and cutout take images (n, channels, height, width); got {found}")


def augmentation_of(text: str, *, size: int, classes: int) -> Augmentation | None:
    """The augmentation that a setting such as ``crop+flip+cutout=8+mixup=0.2`` stands for, in this order.

    Args:
        text: ``"none"``, or names with ``+`` between them, each at most once: ``crop``, or ``crop=PIXELS`` of padding,
            an eighth of the side when left out (4 of 32); ``flip``; ``cutout``, or ``cutout=PIXELS`` of its side, half
            of the images' when left out; ``mixup``, or ``mixup=ALPHA``, 0.2 when left out.
        size: pixels along the shorter side of the images.
        classes: their number.

    Returns:
        None for ``"none"``.

    Raises:
        ValueError: if a name is unknown or occurs twice, or a number is missing, wrong or out of range.

    >>> augmentation_of("crop+flip", size=32, classes=10)
    Composed(Crop(padding=4), Flip())
    """
    if text.strip() == "none":
        return None
    found: dict[str, Augmentation] = {}
    for entry in text.split("+"):
        name, _, number = (part.strip() for part in entry.partition("="))
        if name not in AUGMENTATIONS:
            near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"there is no augmentation {name!r}; {hint}There are: {', '.join(AUGMENTATIONS)}, with + between them, "
                "or none"
            )
        if name in found:
            raise ValueError(f"the augmentation {name} occurs twice in {text!r}; name it once")
        if name == "flip" and "=" in entry:
            raise ValueError(f"the augmentation flip takes no number; got {entry.strip()!r}")
        given = number if "=" in entry else None
        found[name] = _made(name, given, size=size, classes=classes)
    return Composed(*found.values())


def _made(name: str, given: str | None, *, size: int, classes: int) -> Augmentation:
    if name == "flip":
        return Flip()
    if name == "mixup":
        return MixUp(0.2 if given is None else _alpha(given), classes=classes)
    if name == "crop":
        return Crop(size // 8 if given is None else _pixels(name, given, size=size))
    return Cutout(size // 2 if given is None else _pixels(name, given, size=size))


def _pixels(name: str, given: str, *, size: int) -> int:
    if not given.isdecimal() or not 1 <= int(given) <= size:
        raise ValueError(
            f"{name} takes a whole number of pixels from 1 to {size}, the side of the images; got {given!r}"
        )
    return int(given)


def _alpha(given: str) -> float:
    try:
        alpha = float(given)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < math.inf:
        raise ValueError(f"mixup takes a positive number, its alpha, such as mixup=0.2; got {given!r}")
    return alpha
