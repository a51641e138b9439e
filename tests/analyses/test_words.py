from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from analyses import words
from analyses.results import MEASURES

FLAT = {"largest_eigenvalue": "largest Hessian eigenvalue", "trace": "Hessian trace", "sharpness": "m-sharpness"}


@pytest.mark.parametrize(
    ("measure", "value", "error", "written"),
    [
        ("test_accuracy", 0.912, 0.0104, "91.2 ± 1.0"),
        ("gap", -0.05, 0.01, "−5.0 ± 1.0"),
        ("train_loss", 0.12345, 0.0, "0.123"),
        ("trace", 140.126, 12.3456, "140.13 ± 12.35"),
        ("trace", 140.126, 0.005, "140.13 ± 0.01"),
        ("trace", 140.126, 0.0049, "140.13 ± 5e-03"),
        ("largest_eigenvalue", 10.0, 3.1e-7, "10.000 ± 3e-07"),
        ("sharpness", 0.01234, math.nan, "0.0123 (error unknown)"),
        ("sharpness", 0.01234, math.inf, "0.0123 (error unknown)"),
        ("gap", -0.0001, 0.01, "0.0 ± 1.0"),
        ("test_accuracy", 1.0, 0.0, "100.0 ± 0.0"),
        ("test_loss", 0.45, math.nan, "0.450 (error unknown)"),
        ("trace", math.nan, 0.1, "nan ± 0.10"),
    ],
)
def test_a_value_is_written_with_its_error_and_an_error_is_never_rounded_to_nothing(measure, value, error, written):
    assert words.with_error(measure, value, error) == written


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([2.0, 2.5, 3.0], "2.50 (2.00–3.00)"),
        ([-2.0, 1.0], "−0.50 (−2.00 to 1.00)"),
        ([-2.0, -1.0], "−1.50 (−2.00 to −1.00)"),
        ([0.0, 1.0], "0.50 (0.00–1.00)"),
        ([2.0], "2.00"),
    ],
)
def test_a_mean_over_seeds_is_followed_by_the_lowest_and_the_highest(values, written):
    assert words.over_seeds("trace", np.array(values)) == written


def test_a_table_of_several_seeds_is_written_as_means_and_one_of_single_runs_with_errors(make_table):
    headings, rows = words.cells(make_table({"SGD": {"trace": [1.0, 3.0]}, "SAM": {"trace": [1.0, 2.0]}}), ["trace"])
    assert headings == ["training", "Hessian trace"]
    assert rows == [["SGD", "2.00 (1.00–3.00)"], ["SAM", "1.50 (1.00–2.00)"]]
    _, rows = words.cells(make_table({"SGD": {"trace": [1.0]}, "SAM": {"trace": [2.0]}}), ["trace"])
    assert rows == [["run-01: SGD", "1.00 ± 0.01"], ["run-02: SAM", "2.00 ± 0.01"]]


def test_a_cell_of_an_eigenvalue_that_did_not_converge_says_so(make_table):
    table = make_table({"SGD": {"trace": [1.0]}}, converged=False)
    cells = dict(zip(MEASURES, words.run_cells(table, 0), strict=True))
    assert cells["largest_eigenvalue"] == "0.500 ± 0.010 not converged"
    assert [name for name, cell in cells.items() if "not converged" in cell] == ["largest_eigenvalue"]


def three(make_table, **changes):
    """The groups B, A and C; by means C is the flattest, B the sharpest, and A the most accurate."""
    measures = {
        "B": {"test_accuracy": [0.90, 0.92], **{key: [30.0, 34.0] for key in FLAT}},
        "A": {"test_accuracy": [0.96, 0.98], **{key: [20.0, 24.0] for key in FLAT}},
        "C": {"test_accuracy": [0.93, 0.95], **{key: [10.0, 14.0] for key in FLAT}},
    }
    return make_table({group: given | changes.get(group, {}) for group, given in measures.items()})


def test_the_flattest_and_the_sharpest_are_named_for_every_measure(make_table):
    flattest = words.what_it_shows(three(make_table))[0]
    for measure, label in FLAT.items():
        low, high = (words.over_seeds(measure, np.array(v)) for v in ([10.0, 14.0], [30.0, 34.0]))
        assert f"{label} is lowest for C, {low}, and highest for B, {high}" in flattest
    assert "overlap" not in flattest


@pytest.mark.parametrize(("sharpest", "overlap"), [([14.5, 30.0], False), ([14.0, 31.0], True), ([11.0, 90.0], True)])
def test_seeds_are_said_to_overlap_exactly_where_they_do(sharpest, overlap, make_table):
    changed = three(make_table, B={"trace": sharpest}, A={"trace": [12.5, 12.5]})
    parts = words.what_it_shows(changed)[0].split("; ")
    assert [("overlap" in part) for part in parts] == [False, overlap, False]


def test_the_most_and_the_least_accurate_are_named_with_their_difference(make_table):
    sentence = words.what_it_shows(three(make_table))[1]
    assert "highest for A, 97.0 (96.0–98.0) %, and lowest for B, 91.0 (90.0–92.0) %" in sentence
    # Var = 0.01² · 2 · (1/4 + 1/4) · (1 − 0.5), over two seeds each whose accuracies correlate by one half.
    assert "The difference, 6.0 points, is more than twice its standard error of 0.7 points over the draw" in sentence
    assert "paired, as all were tested on the same ones, averaged over seeds" in sentence


@pytest.mark.parametrize(
    ("worst", "verdict"),
    [
        (0.992, "is less than its standard error of 1.0"),
        (0.985, "is one to two times its standard error of 1.0"),
        (0.97, "is more than twice its standard error of 1.0"),
    ],
)
def test_a_difference_in_accuracy_is_set_against_chance(worst, verdict, make_table):
    table = make_table({"A": {"test_accuracy": [1.0]}, "B": {"test_accuracy": [worst]}})  # √2 · √(1 − 0.5) · 1.0
    sentence = words.what_it_shows(table)[1]
    assert verdict in sentence
    assert "averaged over seeds" not in sentence


def test_a_difference_between_networks_that_err_alike_is_surer_and_one_of_unknown_error_is_said_to_be(make_table):
    runs = {"A": {"test_accuracy": [0.98]}, "B": {"test_accuracy": [0.97]}}
    alike, apart, unknown = (words.what_it_shows(make_table(runs, correlation=c))[1] for c in (0.98, 0.0, None))
    assert "is more than twice its standard error of 0.2 points" in alike
    assert "is less than its standard error of 1.4 points" in apart
    assert "The difference is 1.0 points; its standard error is not known." in unknown


def test_means_that_are_equal_or_not_finite_are_not_ranked(make_table):
    runs = {"A": {"trace": [1.0], "sharpness": [math.nan]}, "B": {"trace": [1.0], "sharpness": [1.0]}}
    flatness, accuracy, *_ = words.what_it_shows(make_table(runs))
    assert "Hessian trace is the same for all, 1.00" in flatness
    assert "m-sharpness is not finite for A, so nothing is ranked by it" in flatness
    assert accuracy == "Test accuracy is the same for all, 50.0 %."


def test_the_rank_correlation_is_over_the_means_of_the_groups(make_table):
    # Accuracy: A > C > B; flat measures: B > A > C. Pairs BA and BC are discordant, AC is concordant.
    sentence = words.what_it_shows(three(make_table))[2]
    assert "over the 3 means" in sentence
    for label in FLAT.values():
        assert f"−0.33 for {label}" in sentence


def test_a_correlation_with_a_constant_is_undefined(make_table):
    table = make_table({group: {"test_accuracy": [0.9]} for group in "ABC"})
    assert words.what_it_shows(table)[2].count("undefined for") == len(FLAT)


def test_a_table_of_one_group_compares_nothing(make_table):
    (sentence,) = words.what_it_shows(make_table({"A": {"trace": [1.0, 2.0]}}))
    assert sentence == "There is one way of training in this table, so nothing is compared."
    limits = words.what_it_does_not_show(make_table({"A": {"trace": [1.0, 2.0]}}))[0]
    assert limits.startswith("The way of training was run with 2 seeds.")
    (sentence,) = words.what_it_shows(make_table({"A": {"trace": [1.0]}}))
    assert sentence == "There is one run in this table, so nothing is compared."


def test_the_number_of_seeds_is_stated_with_what_it_means(make_table):
    one = words.what_it_does_not_show(make_table({"A": {"trace": [1.0]}, "B": {"trace": [1.0]}}))[0]
    two = words.what_it_does_not_show(make_table({"A": {"trace": [1.0, 2.0]}, "B": {"trace": [1.0, 2.0]}}))[0]
    assert "run with 1 seed." in one
    assert "cannot be told" in one
    assert "run with 2 seeds." in two
    assert "not confidence intervals" in two


def test_runs_that_did_not_converge_are_named_where_there_are_any(make_table):
    table = three(make_table)
    assert not any("converge" in sentence for sentence in words.what_it_does_not_show(table))
    late = dataclasses.replace(table, converged=np.array([True, False, True, True, False, True]))
    (sentence,) = [s for s in words.what_it_does_not_show(late) if "converge" in s]
    assert "did not converge for run-02, run-05;" in sentence


def test_negative_gaps_are_explained_where_there_are_any(make_table):
    for gap, explained in ((0.0, False), (0.1, False), (-0.01, True)):
        sentences = words.what_it_does_not_show(three(make_table, C={"gap": [0.2, gap]}))
        assert any("gap is negative" in sentence for sentence in sentences) is explained


def test_the_limits_of_flatness_and_correlation_are_always_stated(table):
    text = " ".join(words.what_it_does_not_show(table))
    assert "rescaled" in text
    assert "does not show that flatness causes generalization" in text
    assert "one training set" in text


def test_groups_of_different_size_are_said_to_be_so_and_written_as_means(make_table):
    table = make_table({"A": {"trace": [1.0]}, "B": {"trace": [1.0, 3.0]}})
    limits = words.what_it_does_not_show(table)[0]
    assert "run with 1 to 2 seeds." in limits
    assert "cannot be told" in limits
    assert "not confidence intervals" in limits
    assert words.cells(table, ["trace"])[1] == [["A", "1.00"], ["B", "2.00 (1.00–3.00)"]]


def test_a_single_run_is_not_said_to_be_compared(make_table):
    table = make_table({"A": {"trace": [1.0]}})
    text = " ".join(words.what_it_does_not_show(table))
    assert "one run" in text
    for phrase in ("differences between methods", "go together", "All runs"):
        assert phrase not in text


@pytest.mark.parametrize(("losses", "differ"), [([0.4, 0.6], False), ([0.4, 0.61], True), ([0.0, 0.0], False)])
def test_unequal_training_losses_are_stated_with_what_they_mean(losses, differ, make_table):
    table = make_table({"A": {"train_loss": losses[:1]}, "B": {"train_loss": losses[1:]}})
    found = [sentence for sentence in words.what_it_does_not_show(table) if "Training losses differ" in sentence]
    assert len(found) == differ
    if differ:
        assert "from 0.4 to 0.61: flatness at unequal training loss" in found[0]


@pytest.mark.parametrize("groups", ["AB", "ABC"])
def test_what_takes_more_than_two_groups_is_said_of_more_than_two_only(groups, make_table):
    table = make_table({group: {"test_accuracy": [0.9 + 0.01 * i]} for i, group in enumerate(groups)})
    shown = " ".join(words.what_it_shows(table))
    assert ("The best and the worst of 3, chosen after the fact, differ" in shown) is (groups == "ABC")
    assert ("chosen after the fact" in shown) is (groups == "ABC")
    assert ("Kendall" in shown) is (groups == "ABC")


@pytest.mark.parametrize(("higher", "said"), [(1.02, True), (1.04, False)])
def test_means_within_twice_the_error_of_their_difference_are_said_to_be_so(make_table, higher, said):
    table = make_table({"SGD": {"trace": [1.0]}, "SAM": {"trace": [higher]}})  # errors of 0.01 each
    (flatness, *_) = words.what_it_shows(table)
    trace = next(part for part in flatness.split(";") if "trace" in part)
    assert ("differ by no more than twice the error" in trace) == said


def test_without_accuracies_the_test_loss_stands_in_for_them(make_table):
    none = {"test_accuracy": [math.nan], "gap": [math.nan]}
    given = {"A": 0.1, "B": 0.3, "C": 0.2}
    flat = {"A": 1.0, "B": 3.0, "C": 2.0}
    table = make_table(
        {group: none | {"test_loss": [given[group]]} | {key: [flat[group]] for key in FLAT} for group in "ABC"},
        correlation=None,
    )
    shows, limits = words.what_it_shows(table), words.what_it_does_not_show(table)
    assert shows[1] == "Test loss: lowest for A, 0.100, and highest for B, 0.300."
    assert "between test loss and flatness over the 3 means is +1.00 for largest Hessian eigenvalue" in shows[2]
    assert "+1: flatter always had less loss; −1: the reverse" in shows[2]
    assert "There is no accuracy: the targets are not known to be classes." in limits
    assert any("Where flatness and test loss go together" in sentence for sentence in limits)
    headings, rows = words.cells(table, words.headlines(table))
    assert rows[0][1:4] == ["-", "-", "0.100 ± 0.010"]
    assert headings[3] == "test loss"
    assert "test_loss" not in words.headlines(make_table({"A": {"test_accuracy": [0.9]}}))
