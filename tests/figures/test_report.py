from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from figures.report import MOST, pictures

LABELS = ["SGD", "SAM", "mSAM, 2 micro-batches"]


@pytest.fixture
def drawn(make):
    def of(kind, labels):
        (table,) = make(kind, labels).values()
        return pictures(table, *(make(question, labels) for question in ("density", "line", "plane")))

    return of


def test_there_is_a_picture_of_the_table_the_spectra_the_lines_and_the_planes(drawn):
    titles = [picture.title for picture in drawn("micro-batches", LABELS)]
    assert titles == [
        "Flatness against the number of micro-batches",
        "Spectra of the Hessian",
        "The loss along a line",
        "The loss over a plane",
    ]
    assert drawn("groups", LABELS)[0].title == "Flatness and accuracy"


def test_every_picture_is_an_svg_that_can_be_read_and_has_a_caption(drawn):
    for picture in drawn("groups", LABELS):
        assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
        assert picture.caption.endswith(".")


def test_a_caption_says_when_not_all_are_drawn(drawn):
    many = [f"SAM, lr {i}" for i in range(MOST + 1)]
    captions = [picture.caption for picture in drawn("groups", many)][1:]
    assert all(f"The first {MOST} of {MOST + 1} are drawn." in caption for caption in captions)


def test_a_caption_says_nothing_of_a_choice_where_all_are_drawn(drawn):
    assert not any("The first" in picture.caption for picture in drawn("groups", LABELS))
