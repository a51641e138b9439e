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


@pytest.mark.parametrize("kind", ["groups", "micro-batches"])
def test_lower_is_called_flatter_in_the_panels_of_flatness_alone(kind, drawn):
    caption = drawn(kind, LABELS)[0].caption
    assert "diamonds are means over seeds." in caption
    assert "In the first three panels lower is flatter." in caption
    assert "Lower is flatter" not in caption


def test_a_hump_is_not_said_to_be_one_eigenvalue(drawn):
    caption = drawn("groups", LABELS)[1].caption
    assert "Isolated humps to the right are single large eigenvalues, or a few close together." in caption


@pytest.mark.parametrize("labels", [LABELS[:1], LABELS])
def test_a_table_of_single_runs_is_not_said_to_have_means_over_seeds(labels, make, table):
    runs = table(labels, [4] * len(labels), seeds=1)
    caption = pictures(runs, *(make(question, labels) for question in ("density", "line", "plane")))[0].caption
    assert "means over seeds" not in caption
    assert "single run" in caption
