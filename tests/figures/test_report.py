from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
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


def test_the_runs_that_are_drawn_are_named_by_their_seeds_where_there_are_others(make, table):
    runs = table(LABELS, [4] * 3, seeds=2)
    results = [make(question, LABELS) for question in ("density", "line", "plane")]
    assert all("One run of each way of training, seed 0." in p.caption for p in pictures(runs, *results)[1:])
    mixed = dataclasses.replace(runs, seeds=np.array([3, 4, 5, 6, 3, 4]))
    assert all("One run of each way of training, seeds 3, 5." in p.caption for p in pictures(mixed, *results)[1:])
    one = [make(question, LABELS[:1]) for question in ("density", "line", "plane")]
    assert all("One run of several, seed 0." in p.caption for p in pictures(table(LABELS[:1], [4]), *one)[1:])
    for number, drawn in ((1, one), (3, results)):
        single = pictures(table(LABELS[:number], [4] * number, seeds=1), *drawn)
        assert not any("One run" in picture.caption or "way of training" in picture.caption for picture in single)


def test_of_one_way_of_training_nothing_is_said_of_several(make, table):
    one = [make(question, LABELS[:1]) for question in ("density", "line", "plane")]
    text = " ".join(picture.title + " " + picture.caption for picture in pictures(table(LABELS[:1], [4]), *one))
    for phrase in ("Spectra", "each run", "for all", "L(w)"):
        assert phrase not in text


def test_a_rise_is_called_a_rise_and_a_loss_a_loss(make, table):
    runs = table(LABELS, [4] * 3, seeds=1)
    densities, lines, planes = (make(question, LABELS) for question in ("density", "line", "plane"))
    drawn = pictures(runs, densities, lines, planes)
    assert "rise above the run's own loss L(w), which the legend states" in drawn[2].caption
    assert "rise above the run's own loss L(w), which each title states" in drawn[3].caption
    off = {k: dataclasses.replace(line, coordinates=line.coordinates + 0.01) for k, line in lines.items()}
    assert "rise" not in pictures(runs, densities, off, planes)[2].caption


def test_marks_of_losses_that_are_not_finite_are_explained_where_there_are_some(make, table):
    runs = table(LABELS, [4] * 3, seeds=1)
    densities, lines, planes = (make(question, LABELS) for question in ("density", "line", "plane"))
    assert not any("not finite" in picture.caption for picture in pictures(runs, densities, lines, planes))
    lost = [
        {label: dataclasses.replace(r, losses=np.where(r.losses > 0.4, np.inf, r.losses)) for label, r in few.items()}
        for few in (lines, planes)
    ]
    drawn = pictures(runs, densities, *lost)
    assert "Where the loss is not finite there are crosses on the lower edge." in drawn[2].caption
    assert "Where the loss is not finite there are hatches." in drawn[3].caption


def test_the_dashed_line_is_named_as_in_the_table_and_only_where_there_is_one(make, table):
    results = [make(question, LABELS) for question in ("density", "line", "plane")]
    runs = table(["AdamW", "SAM", "mSAM, 2 micro-batches"], [0, 1, 2])
    assert "The dashed line is AdamW, without perturbation." in pictures(runs, *results)[0].caption
    runs = table(["SAM", "mSAM, 2 micro-batches", "mSAM, 4 micro-batches"], [1, 2, 4])
    assert "dashed" not in pictures(runs, *results)[0].caption


def test_a_hump_is_not_said_to_be_one_eigenvalue(drawn):
    caption = drawn("groups", LABELS)[1].caption
    assert "isolated humps to the right are single large eigenvalues, or a few close together." in caption
    assert caption.endswith("Dots are the largest eigenvalues, found one by one.")
    assert "Dots" not in drawn("groups", LABELS[:1])[1].caption  # where none was found separately


@pytest.mark.parametrize("labels", [LABELS[:1], LABELS])
def test_a_table_of_single_runs_is_not_said_to_have_means_over_seeds(labels, make, table):
    runs = table(labels, [4] * len(labels), seeds=1)
    caption = pictures(runs, *(make(question, labels) for question in ("density", "line", "plane")))[0].caption
    assert "means over seeds" not in caption
    assert "single run" in caption
