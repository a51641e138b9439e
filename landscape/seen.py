"""What is seen at a point of a path: loss and score of the data, and of held-out data example by example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape.batch_norm import Buffers
from landscape.objective import Objective
from landscape.pairs import Pair, require_same_model
from landscape.precision import widest
from landscape.scores import Score, denominator_of_score, require_score, value_of_score
from landscape.terms import Term

_SAME = 1e-4  # relative difference of means that is put down to rounding, in single precision


@dataclass(frozen=True)
class Seen:
    """What was seen at one point of the data, and of the held-out data where there are any.

    ``examples`` has the loss, and the score, of each held-out example of this process, ``(n, 1 or 2)``.
    """

    loss: float
    score: float = math.nan
    held_out_loss: float = math.nan
    held_out_score: float = math.nan
    examples: Tensor | None = None


class Eyes:
    """How a point of a path is looked at.

    Args:
        pair: the checkpoints, and what batch norm normalises by between them.
        held_out: other data.
        score: besides the loss.
    """

    def __init__(self, pair: Pair, held_out: Objective | None, score: Score | None) -> None:
        if held_out is not None:
            require_same_model(pair.objective, held_out, "held_out")
        require_score(score)
        self.pair, self.held_out, self.score = pair, held_out, score

    def at(self, w: Tensor, t: float) -> Seen:
        """What there is to see at w."""
        buffers = self.pair.statistics(w, t)
        loss, score = self._of(self.pair.objective, w, buffers, None)
        if self.held_out is None:
            return Seen(loss, score)
        kept = [
            torch.empty(0, 1 if self.score is None else 2, dtype=torch.float64, device="cpu")
        ]  # all, in a process without work
        held_out = self._of(self.held_out, w, buffers, kept)
        return Seen(loss, score, *held_out, torch.cat(kept))

    def _of(
        self, objective: Objective, w: Tensor, buffers: Buffers, examples: list[Tensor] | None
    ) -> tuple[float, float]:
        """Loss and score; those of each example are added to ``examples``."""
        under = objective.with_buffers(buffers) if buffers else objective

        def of_term(term: Term) -> tuple[Tensor, ...]:
            outputs = term.outputs(w)
            found: tuple[Tensor, ...] = (term.loss_of_outputs(outputs),)
            functions = [under.loss_function]
            if self.score is not None:
                count = denominator_of_score(self.score, term.definition.denominator)(outputs, term.targets)
                share = torch.as_tensor(count / term.count, device=w.device)  # means are weighted as those of losses
                found += (value_of_score(self.score, outputs, term.targets) * share, share)
                functions.append(self.score)
            if examples is not None:
                examples.append(torch.stack([one_by_one(f, outputs, term.targets) for f in functions], dim=1))
            return found

        with torch.no_grad():
            like = (w.new_zeros(()),) * (1 if self.score is None else 3)
            means, _ = under.work.means(under.work.loss_terms, of_term, like=like)
        return float(means[0]), math.nan if self.score is None else float(means[1] / means[2])

    def stderr(self, values: Tensor, mean: float) -> float:
        """s/√n of one value per held-out example; NaN where these do not average to what they must."""
        assert self.held_out is not None
        sharing, device = self.held_out.work.sharing, self.held_out.weights.device
        parts = [values.sum(), values.square().sum(), torch.tensor(len(values), dtype=torch.float64, device="cpu")]
        if sharing.number > 1:
            parts = sharing.summed([part.to(device, widest(device)) for part in parts])
        total, squares, number = (float(part) for part in parts)
        if number < 2 or not abs(total / number - mean) <= _SAME * max(abs(mean), math.sqrt(squares / number)):
            return math.nan
        return math.sqrt(max(0.0, squares / number - (total / number) ** 2) / (number - 1))


def one_by_one(function: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    """A mean over a batch, of each of its examples alone, ``(n,)``; NaN where it does not take a single one."""
    try:
        one = torch.func.vmap(lambda o, y: function(o.unsqueeze(0), y.unsqueeze(0)))
        return one(outputs, targets).detach().cpu().double()  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return torch.full((len(outputs),), math.nan, dtype=torch.float64, device="cpu")
