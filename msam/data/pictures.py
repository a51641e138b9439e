"""Image files as pixels; pillow is imported when one is read."""

from __future__ import annotations

import io
import warnings
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from msam.extras import extra

Pixels = npt.NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_DEEP = ("I", "F")  # modes of pillow, and the beginnings of others, with more than eight bits to a channel


def decoded(raw: bytes, name: str, *, size: int | None = None) -> Pixels:
    """The pixels of an image file, ``(3, h, w)``, red, green and blue; grey images have three equal channels.

    An image is turned as its camera says, transparency is dropped, and of several frames the first is taken.

    Args:
        raw: the file.
        name: for the error.
        size: the sides that the largest square in the middle is brought to, bilinearly; as it is when left out.

    Raises:
        ValueError: if pillow is not installed, the file is no whole image, or has more than eight bits to a channel.
    """
    with extra("data", "images"):
        from PIL import Image, ImageOps, UnidentifiedImageError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata, which are read all the same
            with Image.open(io.BytesIO(raw)) as opened:
                mode = opened.mode
                image: Any = ImageOps.exif_transpose(opened)
                if "transparency" in opened.info:  # of a palette, which is not always one colour
                    image = image.convert("RGBA")
                image = image if image.mode == "RGB" else image.convert("RGB")
                if size is not None:
                    image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
                found = np.asarray(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())[:120].rstrip(". ")
        reason = "it is of no format that is known" if isinstance(error, UnidentifiedImageError) else said
        raise ValueError(f"{name} is no image that can be read ({reason}); replace or remove it") from None
    if mode.startswith(_DEEP):
        raise ValueError(f"{name} has more than 8 bits to a channel (mode {mode}); convert it to 8 bits first")
    return np.ascontiguousarray(found.transpose(2, 0, 1))


class Collected:
    """Images of one size, put one after another into one array.

    Args:
        number: how many there will be.
        advice: what to do where two differ in size.
    """

    def __init__(self, number: int, *, advice: str) -> None:
        self._number, self._advice = number, advice
        self._first = ""
        self._pixels: Pixels = np.empty((0, 3, 0, 0), dtype=np.uint8)
        self._filled = 0

    def add(self, pixels: Pixels, name: str) -> None:
        """Take in the next image.

        Raises:
            ValueError: if it is of another size than the first.
        """
        if not self._filled:
            self._first = name
            self._pixels = np.empty((self._number, *pixels.shape), dtype=np.uint8)
        if pixels.shape != self._pixels.shape[1:]:
            raise ValueError(
                f"images differ in size: {name} has {sides_of(pixels)} pixels and {self._first} "
                f"{sides_of(self._pixels[0])}; {self._advice}"
            )
        self._pixels[self._filled] = pixels
        self._filled += 1

    @property
    def pixels(self) -> Pixels:
        """All of them, ``(n, 3, h, w)``."""
        return self._pixels[: self._filled]


def sides_of(pixels: Pixels) -> str:
    """Width and height of ``(..., h, w)``.

    >>> sides_of(np.zeros((3, 2, 5), dtype=np.uint8))
    '5x2'
    """
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"
