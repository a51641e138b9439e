"""No text of any figure touches another, or the edge of the page."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

from figures import draw

KINDS = (
    "eigenvalues",
    "trace",
    "density",
    "diagonal",
    "norm",
    "course",
    "sharpness",
    "audit",
    "line",
    "plane",
    "groups",
    "micro-batches",
)
LABELS = {
    "one": ["SGD"],
    "two": ["SGD", "mSAM, 16 micro-batches"],
    "three": ["SGD", "SAM", "mSAM, 4 micro-batches"],
    "six": ["SGD", "SAM", *(f"mSAM, {count} micro-batches" for count in (2, 4, 8, 16))],
    "nine": ["SGD", "SAM", *(f"mSAM, {2**i} micro-batches" for i in range(1, 8))],
    "long": [
        f"mASAM, {count} micro-batches, lr 0.05, momentum 0.95, rho 0.05, weight_decay 0.0005" for count in (8, 16)
    ],
}
PANELS = ("largest Hessian eigenvalue", "Hessian trace", "m-sharpness", "test accuracy (%)")
AXES = {
    "eigenvalues": ("rank", "Hessian eigenvalue λ (bars: residual"),
    "trace": ("probes", "Hessian trace, mean so far (band: final ± 2 standard errors)"),
    "density": ("Hessian eigenvalue λ (linear within ±", "spectral density"),
    "diagonal": ("share of the weights, largest first", "diagonal entry of the Hessian (band: ± 2 standard errors)"),
    "norm": ("probes", "‖H‖² (Frobenius), mean so far (band: final ± 2 standard errors)"),
    "course": ("epochs trained (hollow: not converged)", "largest Hessian eigenvalue λ₁ (bars: residual"),
    "audit": ("measure after rescaling / before (1: invariant",),
    "sharpness": ("rise in loss per shard of 32 examples",),
    "worst case": ("worst-case sharpness: rise in loss per shard of 32 examples",),
    "average case": ("average-case sharpness, per pair of draws",),
    "Fisher-Rao": ("Fisher-Rao norm, squared: w'Fw per shard of 32 examples",),
    "relative flatness": ("relative flatness of each layer, large where it is sharp",),
    "curve": ("ρ: bound on ‖ε‖₂ (shards of 128 examples; bands", "worst-case sharpness (rise in loss)"),
    "sizes": ("examples in a shard (ρ = 0.05 (bound on ‖ε‖₂); bands", "m-sharpness (rise in loss)"),
    "sigma": ("standard deviation σ of the noise in each weight", "mean rise in loss, or fall in score"),
    "line": ("coordinate t along the direction d",),
    "plane": ("along the first direction", "along the second direction"),
    "micro-batches": ("number of micro-batches per batch at training", *PANELS),
    "groups": PANELS,
}
CASES = [
    *itertools.product(KINDS[:-1], ["one", "two", "three", "six", "nine", "long"]),
    *itertools.product(["micro-batches"], ["two", "three", "six", "nine"]),
    *itertools.product(["curve", "sizes", "sigma", "relative flatness"], ["one", "nine", "long"]),
    *itertools.product(["worst case", "average case", "Fisher-Rao"], ["one"]),
]
WITH_LEGEND = ("eigenvalues", "trace", "diagonal", "norm", "line", "curve", "sizes", "sigma", "relative flatness")


@pytest.mark.parametrize(("kind", "labels"), CASES)
def test_no_two_texts_overlap_and_none_is_cut_off(kind, labels, make, texts):
    figure = draw(make(kind, LABELS[labels]))
    width, height = figure.bbox.size
    boxes = texts(figure)
    assert len(boxes) > 5
    for text, (left, bottom, right, top) in boxes:
        assert left >= 0, text
        assert bottom >= 0, text
        assert right <= width, text
        assert top <= height, text
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{first!r} and {second!r} overlap"


@pytest.mark.parametrize(("kind", "labels"), [case for case in CASES if case[1] in ("one", "six")])
def test_every_axis_is_labelled_in_words(kind, labels, make, texts):
    shown = [" ".join(text.split()) for text, _ in texts(draw(make(kind, LABELS[labels])))]
    height = {"line": ("loss L(w + t d)", "rise in loss"), "plane": ("loss", "rise in loss")}.get(kind)
    for phrase in (*AXES[kind], *([height[labels == "six"]] if height else [])):
        assert any(text.startswith(phrase) for text in shown), phrase


@pytest.mark.parametrize("labels", ["two", "six", "nine", "long"])
@pytest.mark.parametrize("kind", WITH_LEGEND)
def test_the_legend_lists_exactly_the_labels(kind, labels, make):
    figure = draw(make(kind, LABELS[labels]))
    (legend,) = figure.legends
    listed = [text.get_text() for text in legend.get_texts()]
    assert [text.removesuffix(", L(w) = 0.100") for text in listed] == LABELS[labels]
    assert any(", L(w)" in text for text in listed) is (kind == "line")
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_the_legend_of_sharpness_has_the_size_of_smaller_shards_where_there_are_some(make, texts):
    results = make("sharpness", ["a", "b"])
    assert draw(results).legends == []
    sizes = np.array([32] * 8 + [20])
    smaller = {label: dataclasses.replace(result, shard_sizes=sizes) for label, result in results.items()}
    assert "smaller shard (20 examples)" in [text for text, _ in texts(draw(smaller))]


@pytest.mark.parametrize("kind", WITH_LEGEND)
def test_a_single_label_needs_no_legend(kind, make):
    assert draw(make(kind, ["SGD"])).legends == []


@pytest.mark.parametrize("kind", ["density", "sharpness", "plane", "groups"])
def test_a_figure_without_a_legend_names_every_label(kind, make, texts):
    shown = [" ".join(text.split()) for text, _ in texts(draw(make(kind, LABELS["six"])))]
    named = [text.removesuffix(" L(w) = 0.100") if kind == "plane" else text for text in shown]
    if kind == "density":  # each panel says how much of it lies at zero
        found = [
            re.fullmatch(r"(.*) \d+\.\d+ ± \d+\.\d+ % of the eigenvalues within \S+ of zero", text) for text in shown
        ]
        named = [match[1] for match in found if match]
    assert all(label in named for label in LABELS["six"])


def test_the_axis_of_flatness_against_micro_batches_says_so_in_words(make, texts):
    shown = [text for text, _ in texts(draw(make("micro-batches", LABELS["six"])))]
    assert shown.count("number of micro-batches per batch at training") == 2
    for tick in ("SGD", "1\nSAM", "2", "16"):
        assert tick in shown


def test_one_micro_batch_is_named_by_the_method_of_the_runs(make, texts):
    groups = ["SGD", "ASAM", "mASAM, 2 micro-batches"]
    shown = [text for text, _ in texts(draw(make("micro-batches", groups)))]
    assert "1\nASAM" in shown
    assert "1\nSAM" not in shown
