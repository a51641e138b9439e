from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from analyses.correlation import kendall_tau


def tau_b(first, second):
    """(concordant - discordant) / √(pairs not tied in first × pairs not tied in second), counted pair by pair."""
    signs = [
        (np.sign(first[i] - first[j]), np.sign(second[i] - second[j]))
        for i, j in itertools.combinations(range(len(first)), 2)
    ]
    return sum(a * b for a, b in signs) / math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))


def test_one_discordant_pair_of_six_is_two_thirds():
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6, rel=1e-14)


def test_with_a_tie_it_is_tau_b():
    # 1-2, 1-3, 1-4, 2-4, 3-4 concordant; 2-3 tied in the first: 5 / √(5·6).
    assert kendall_tau([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(30), rel=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_on_random_rankings_with_ties_it_is_the_count_over_pairs(seed):
    first, second = np.random.default_rng(seed).integers(0, 5, (2, 9))
    assert kendall_tau(first.tolist(), second.tolist()) == pytest.approx(tau_b(first, second), rel=1e-12)


@pytest.mark.parametrize(("first", "second"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])])
def test_a_constant_column_has_no_ranking(first, second):
    assert math.isnan(kendall_tau(first, second))
