"""Image files become the pixels they show, and what cannot be read says so by its name."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from made_up_images import encoded, pixels
from PIL import Image

from msam.data.pictures import Collected, decoded

ONE = pixels(1, size=6)[0]


def test_a_lossless_file_is_decoded_to_its_very_pixels():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(decoded(encoded(ONE, kind=kind), "a"), ONE)


def test_grey_images_have_three_equal_channels_and_palettes_and_transparency_become_colours():
    grey = decoded(encoded(ONE, mode="L"), "a")
    assert grey.shape == (3, 6, 6)
    assert (grey == grey[0]).all()
    assert np.array_equal(decoded(encoded(ONE, mode="RGBA"), "a"), ONE)
    stream = io.BytesIO()
    two = Image.fromarray(np.repeat(ONE[:1, :, :, None] // 128 * 255, 3, axis=-1)[0]).quantize(2)
    two.save(stream, "PNG", transparency=b"\x00\xff")
    assert np.array_equal(decoded(stream.getvalue(), "a")[0], ONE[0] // 128 * 255)


def test_an_image_is_turned_as_its_camera_says():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels(1, size=8)[0].transpose(1, 2, 0)[:4]).save(stream, "PNG", exif=exif)
    assert decoded(stream.getvalue(), "a").shape == (3, 8, 4)


def test_the_largest_square_in_the_middle_is_brought_to_a_size():
    wide = np.zeros((3, 4, 8), dtype=np.uint8)
    wide[:, :, 2:6] = 200  # all of the square in the middle
    assert (decoded(encoded(wide), "a", size=4) == 200).all()
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8), (3, 8, 8))
    small = decoded(encoded(ramp), "a", size=4)  # means of two by two, with a little of their neighbours
    assert small.shape == (3, 4, 4)
    assert np.abs(small[0, 0].astype(int) - [5, 25, 45, 65]).max() <= 3


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"no image", "cat.png is no image that can be read .it is of no format that is known.; replace or remove it"),
        (b"", "cat.png is no image that can be read"),
        (encoded(pixels(1, size=20)[0])[:300], "cat.png is no image that can be read .*truncated"),
        (encoded(ONE).replace(b"IDAT", b"IDXX"), "cat.png is no image that can be read"),
    ],
)
def test_what_is_no_whole_image_is_refused_by_its_name(raw, sentence):
    with pytest.raises(ValueError, match=sentence):
        decoded(raw, "cat.png")


def test_more_than_eight_bits_to_a_channel_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 1000, dtype=np.uint16)).save(stream, "PNG")
    with pytest.raises(ValueError, match=r"deep.png has more than 8 bits to a channel"):
        decoded(stream.getvalue(), "deep.png")


def test_the_first_image_that_differs_in_size_is_named():
    collected = Collected(3, advice="resize them")
    collected.add(ONE, "a.png")
    collected.add(ONE, "b.png")
    with pytest.raises(ValueError, match=r"c.png has 5x6 pixels and a.png 6x6; resize them"):
        collected.add(ONE[:, :, :5], "c.png")


def test_without_pillow_the_command_that_installs_it_is_said(monkeypatch):
    raw = encoded(ONE)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"images need PIL; install the extra: pip install 'msam-landscape\[data\]'"):
        decoded(raw, "a")
