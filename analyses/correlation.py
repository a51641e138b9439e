"""How strongly two columns of a table go together."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ_b: agreement of two rankings, from -1 to 1; NaN where one of them is constant.

    >>> kendall_tau([1, 2, 3], [3, 2, 1])
    -1.0
    """
    return float(stats.kendalltau(first, second).statistic)
