"""The standard error of a mean loss over a random sample of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.batches import map_tensors, num_examples, tensors
from landscape.precision import widest
from landscape.terms import Term

GROUPS = 64  # that a sample is cut into where single losses cannot be had


def stderr_of_mean(losses: Tensor, counts: Tensor, *, share: float) -> float:
    """The standard error of L = Σ d_i l_i / Σ d_i as an estimate for all that a random sample was drawn from.

    √[(1 − f) · n/(n − 1) · Σ d_i² (l_i − L)²] / Σ d_i: the ratio estimator, with f the share of all examples that the
    sample is (Cochran, Sampling Techniques, 1977, sections 2.11 and 9.3).

    Args:
        losses: l_i, ``(n,)``, of examples or of random groups of them.
        counts: d_i, what each of them is the mean over, ``(n,)``; with d_i = 0 it does not count.
        share: f.

    Returns:
        NaN from a single one, and where a loss is not finite.

    >>> stderr_of_mean(torch.tensor([1.0, 3.0]), torch.ones(2), share=0.5) == math.sqrt(0.5)
    True
    """
    losses, counts = losses.cpu().double(), counts.cpu().double()
    if share >= 1:
        return 0.0 if bool(torch.isfinite(losses[counts != 0]).all()) else math.nan
    n = len(losses)
    if n < 2:
        return math.nan
    d, values = counts, torch.where(counts != 0, losses, 0)  # a mean over nothing is NaN
    mean = (d * values).sum() / d.sum()
    squares = (d * (values - mean)).square().sum()
    return float(((1 - share) * n / (n - 1) * squares).sqrt() / d.sum())


class SingleLosses:
    """The losses of single examples, all at once from the outputs of their batch."""

    def parts(self, term: Term, outputs: Any, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and denominator of each example of a term whose outputs have been computed, ``(n,)`` each."""
        del loss
        targets = term.targets

        def one(output: Any, target: Any) -> tuple[Tensor, Tensor]:
            single = Term(term.definition, None)
            single.targets = map_tensors(lambda t: t[None], target)
            row = map_tensors(lambda t: t[None], output)
            count = term.definition.denominator(row, single.targets)
            return single.loss_of_outputs(row), torch.as_tensor(count, device=outputs.device)

        losses, counts = torch.func.vmap(one)(outputs, targets)
        return losses, counts

    def serve(self, term: Term, outputs: Any, loss: Tensor) -> bool:
        """Whether the examples' losses can be had, and their mean is the loss of the batch."""
        size = num_examples(term.batch)
        if any(t.ndim == 0 or len(t) != size for t in tensors([outputs, term.targets])):
            return False
        try:
            losses, counts = self.parts(term, outputs, loss)
        except Exception:  # whatever a loss raises that does not expect single examples, or no values to look at
            return False
        mean = (torch.where(counts != 0, losses, 0).to(widest(losses.device)) * counts).sum() / counts.sum()
        tolerance = 1e3 * torch.finfo(loss.dtype).eps * max(1.0, abs(float(loss)))
        return bool(abs(mean - loss) <= tolerance) or bool(counts.sum() == 0)


class GroupLosses:
    """The losses of whole batches, random groups of examples: for losses that do not tell examples apart."""

    def parts(self, term: Term, outputs: Any, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and denominator of a term, ``(1,)`` each."""
        del outputs
        return loss.reshape(1), torch.as_tensor(term.count, device=loss.device).reshape(1)


def size_of_group(sizes: Sequence[int]) -> int:
    """The most examples to a group, from the sizes of the batches; several batches are of unlike examples."""
    return max(1, sum(sizes) // GROUPS) if len(sizes) == 1 else 1
