"""Which eigenvalues are wanted, against sorted lists and what one more value would change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.ends import Ends

KINDS = ["LA", "SA", "LM", "BE"]


def spectra(number: int = 40) -> list[torch.Tensor]:
    """Seven to ten whole numbers of both signs in ascending order, many of them more than once."""
    draw = np.random.default_rng(0)
    return [torch.as_tensor(np.sort(draw.integers(-4, 5, size=7 + i % 4)).astype(float)) for i in range(number)]


def answer(values: torch.Tensor, ends: Ends) -> list[float]:
    """The wanted values in the order asked for."""
    return values[ends.places(values)].tolist()


def sizes(found: list[float], which: str) -> list[float]:
    """What an answer is told by: values that differ in their sign alone serve as well as each other for LM."""
    return sorted(map(abs, found)) if which == "LM" else found


@pytest.mark.parametrize(
    ("which", "k", "more", "expected"),
    [
        ("LA", 2, 0, [5, 4]),
        ("LA", 2, 1, [5, 4, 2]),
        ("SA", 2, 0, [-6, -3]),
        ("SA", 2, 1, [-6, -3, 0]),
        ("LM", 3, 0, [-6, 5, 4]),
        ("LM", 3, 1, [-6, 5, 4, -3]),
        ("BE", 1, 0, [5]),
        ("BE", 1, 1, [5, 4]),
        ("BE", 2, 1, [5, 4, -3, -6]),
        ("BE", 3, 0, [5, 4, -6]),
        ("BE", 3, 1, [5, 4, 2, -3, -6]),
        ("BE", 3, 2, [5, 4, 2, 0, -3, -6]),
        ("BE", 5, 3, [5, 4, 2, 0, -3, -6]),
        ("LA", 6, 1, [5, 4, 2, 0, -3, -6]),
        ("SA", 6, 1, [-6, -3, 0, 2, 4, 5]),
    ],
)
def test_the_wanted_ones_and_some_more_come_in_the_order_asked_for(which, k, more, expected):
    values = torch.tensor([-6.0, -3.0, 0.0, 2.0, 4.0, 5.0])
    assert answer(values, Ends(which, k, more)) == expected


def test_of_two_that_are_equal_in_magnitude_the_smaller_comes_first():
    many = torch.tensor([-1.0] * 30 + [1.0] * 30)
    assert Ends("LM", 40).places(many).tolist() == list(range(40))


@pytest.mark.parametrize("which", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_within_a_border_is_just_where_one_more_copy_changes_the_answer(which, k):
    ends = Ends(which, k)
    for values in spectra():
        found = answer(values, ends)
        borders = ends.borders(torch.tensor(found), torch.zeros(k))
        for value in set(found):
            richer = answer(torch.cat([values, torch.tensor([value])]).sort().values, ends)
            changes = sizes(richer, which) != sizes(found, which)
            assert changes == any(sign * value >= sign * at for sign, at in borders), (values, value)


@pytest.mark.parametrize(
    ("which", "found", "allowed", "borders"),
    [
        ("LA", [9, 8, 7], [0, 0, 1], [(1, 9)]),  # 8 is no more than allowed above 7
        ("LA", [9, 8, 7], [0, 9, 0.5], [(1, 8)]),  # what is allowed for 7 counts
        ("LA", [7], [0], []),
        ("SA", [-9, -8, -7], [0, 0, 1], [(-1, -9)]),
        ("LM", [-9, 8, 7], [0, 0, 1], [(1, 9), (-1, -9)]),
        ("LM", [-9, 8], [0, 2], []),
        ("BE", [9, 8, -7, -8], [0, 0, 0, 0], [(1, 9), (-1, -8)]),
        ("BE", [9, 8, -7, -8], [0, 1, 0, 0], [(-1, -8)]),
        ("BE", [9, 8, -7, -8], [0, 0, 1, 0], [(1, 9)]),
        ("BE", [9, 8, -7], [0, 0, 0], [(1, 9)]),
    ],
)
def test_a_border_lies_above_the_least_one_by_more_than_is_allowed(which, found, allowed, borders):
    ends = Ends(which, len(found))
    assert ends.borders(torch.tensor(found).double(), torch.tensor(allowed).double()) == borders


@pytest.mark.parametrize("which", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_outside_what_is_found_any_value_would_change_the_answer(which, k):
    ends = Ends(which, k)
    for values in spectra():
        found = answer(values, ends)
        outside = ends.outside(torch.tensor(found), torch.full((k,), 0.25))
        for value in np.arange(-5, 5.5, 0.25).tolist():
            richer = answer(torch.cat([values, torch.tensor([value])]).sort().values, ends)
            beyond = any(sign * value > sign * at for sign, at in outside)
            assert not beyond or sizes(richer, which) != sizes(found, which)
        assert not any(sign * value >= sign * at for sign, at in outside for value in found)


@pytest.mark.parametrize(
    ("which", "outside"),
    [
        ("LA", [(1, 4)]),
        ("SA", [(-1, -5)]),
        ("LM", [(1, 5), (-1, -5)]),
        ("BE", [(1, 4), (-1, -5)]),
    ],
)
def test_outside_begins_beyond_all_that_is_found_by_what_each_may_be_off(which, outside):
    found, allowed = torch.tensor([2.0, 3.0, -3.0, -4.0]), torch.tensor([2.0, 0.5, 2.0, 0.5])
    assert Ends(which, 4).outside(found, allowed) == outside
    assert Ends("BE", 1).outside(found[:1], allowed[:1]) == [(1, 4)]
