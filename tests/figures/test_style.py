from __future__ import annotations

import itertools

import matplotlib as mpl
import pytest

from figures.style import line_styles, wrapped


def lightness(colour: str) -> float:
    """CIE L*, from 0 (black) to 100 (white): what is left of a colour in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


@pytest.mark.parametrize("count", range(2, 10))
def test_lines_can_be_told_apart_in_grey_by_lightness_or_dash(count):
    styles = line_styles([f"label {i}" for i in range(count)]).values()
    for first, second in itertools.combinations(styles, 2):
        lighter = abs(lightness(first["color"]) - lightness(second["color"]))
        assert first["linestyle"] != second["linestyle"] or lighter > 20


@pytest.mark.parametrize("count", range(2, 10))
def test_markers_can_be_told_apart_by_their_shape(count):
    styles = line_styles([f"label {i}" for i in range(count)]).values()
    assert len({style["marker"] for style in styles}) == count


@pytest.mark.parametrize("count", range(1, 10))
def test_every_line_is_visible_on_white(count):
    for style in line_styles([f"label {i}" for i in range(count)]).values():
        assert lightness(style["color"]) < 75


def test_the_first_label_is_the_reference_and_looks_the_same_among_any_number():
    first = [line_styles([f"label {i}" for i in range(count)])["label 0"] for count in range(1, 10)]
    assert all(style == first[0] for style in first)
    assert first[0]["linestyle"] == "-"


def test_labels_are_broken_between_words_and_their_lines_counted():
    assert wrapped(["short", "one two three"], width=8) == (["short", "one two\nthree"], 2)
