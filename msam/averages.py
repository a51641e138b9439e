"""Means of gradients and losses, weighted by what each was divided by."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from msam.diagnostics import Observer
from msam.step import Gradient, Outcome

MIXED = "the closure reported a denominator for some micro-batches and none for others; report one for all, or none"


def weighted_mean(values: list[Tensor], shares: list[float]) -> Tensor:
    """Σ share · value / Σ share, a scalar."""
    if len(values) == 1:
        return values[0]
    weights = torch.tensor(shares, dtype=torch.float64, device="cpu") / sum(shares)
    return (torch.stack(values) * weights.to(values[0])).sum()


def all_finite(gradient: Gradient | list[Tensor]) -> Tensor:
    """Whether all entries of all tensors are finite, a boolean scalar."""
    entries = [slope for slope in gradient if slope is not None]
    if not entries:
        return torch.ones((), dtype=torch.bool, device="cpu")
    return torch.isfinite(torch.stack(list(torch._foreach_norm(entries)))).all()


def averaged(mean: Gradient, slopes: Gradient, shares: list[float]) -> Gradient:
    """The mean of gradients, weighted by shares, after one more; ``shares`` ends with that of ``slopes``.

    A parameter that only some use has a gradient of zero from the others. After the second it works in place; the first
    is not written into, since autograd may give one tensor for two parameters.
    """
    if len(shares) == 1:
        return slopes
    part = shares[-1] / sum(shares)
    if not any(part is None for part in (*mean, *slopes)):
        if len(shares) == 2:
            return list(torch._foreach_lerp(mean, slopes, part))  # type: ignore[arg-type]
        torch._foreach_lerp_(mean, slopes, part)  # type: ignore[arg-type]
        return mean
    return [_between(before, slope, part) for before, slope in zip(mean, slopes, strict=True)]


def _between(before: Tensor | None, slope: Tensor | None, part: float) -> Tensor | None:
    if before is None or slope is None:
        return slope * part if slope is not None else None if before is None else before * (1 - part)
    return before.lerp(slope, part)


def not_shared(gradient: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Gradients that may be written into: autograd may return one tensor for two parameters, or an expanded one."""
    own = list(gradient)
    seen: set[int] = set()
    for place, slope in enumerate(own):
        if slope is None:
            continue
        start = slope.data_ptr()
        if start in seen or not (slope.is_contiguous() or 0 not in slope.stride()):
            own[place] = slope.clone()
        seen.add(start)
    return own


def mean_of(outcomes: list[Outcome]) -> Outcome:
    """Several accumulated batches as one.

    Raises:
        ValueError: if only some of them report denominators.
    """
    if len({outcome.reported for outcome in outcomes}) > 1:
        raise ValueError(MIXED)
    shares: list[float] = []
    gradient, clean = outcomes[0].gradient, outcomes[0].clean
    finite = outcomes[0].finite
    for outcome in outcomes:
        shares.append(outcome.denominator)
        gradient = averaged(gradient, outcome.gradient, shares)
        finite = finite & outcome.finite
        if clean is not None and outcome.clean is not None:
            clean = [part for part in averaged(list(clean), list(outcome.clean), shares) if part is not None]
    loss = weighted_mean([outcome.loss for outcome in outcomes], shares)
    seen = [outcome.observer for outcome in outcomes if outcome.observer is not None]
    observer = functools.reduce(Observer.followed_by, seen) if seen else None
    return Outcome(loss, gradient, sum(shares), outcomes[0].reported, finite, clean, observer)
