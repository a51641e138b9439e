"""What is read off one objective at a point in weight space: its loss, the standard error of that, a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.batches import num_examples, take
from landscape.chunks import cut
from landscape.objective import Objective
from landscape.scores import Score, denominator_of_score, value_of_score
from landscape.spread import GroupLosses, SingleLosses, size_of_group, stderr_of_mean
from landscape.terms import Mean, Term
from landscape.work import evaluated

Outputs = Callable[[Term], Any]  # of a term; sets its targets and its count
COLUMNS = ("losses", "stderrs", "scores")


class Reading:
    """Data, and what is read off a model's outputs for them.

    Args:
        objective: gives the data, all of them whatever it shares with other processes, and the loss.
        score: read off as well.

    Attributes:
        batches: the data in chunks.
    """

    def __init__(self, objective: Objective, score: Score | None) -> None:
        self.definition = objective.work.definition
        self.batches = objective.work.pieces
        self._score = score
        self._score_count = None if score is None else denominator_of_score(score, self.definition.denominator)
        self._share = None if objective.population is None else objective.num_examples / objective.population
        self._spread: SingleLosses | GroupLosses | None = None
        self._group = size_of_group([num_examples(batch) for batch in objective.work.batches])
        if score is not None or self._share is not None:
            self._look(objective.weights)

    def columns(self, terms: list[Term], outputs_of: Outputs) -> list[float]:
        """Loss, standard error and score over all terms; NaN for what was not asked for."""
        loss, score = Mean(), Mean()
        parts: list[tuple[Tensor, Tensor]] = []

        def read(term: Term) -> tuple[Tensor, Any, tuple[Tensor, Tensor] | None]:
            outputs = outputs_of(term)
            value = term.loss_of_outputs(outputs)
            scored = None
            if self._score is not None and self._score_count is not None:
                scored = (
                    value_of_score(self._score, outputs, term.targets),
                    self._score_count(outputs, term.targets),
                )
            return value, scored, None if self._spread is None else self._spread.parts(term, outputs, value)

        for term, (value, scored, part) in evaluated(terms, read):
            loss.add(value, term.count)
            if scored is not None:
                score.add(*scored)
            if part is not None:
                parts.append(part)
        stderr = math.nan
        if self._share is not None:
            losses, counts = (torch.cat(column) for column in zip(*parts, strict=True))
            stderr = stderr_of_mean(losses, counts, share=self._share)
        return [float(loss.value), stderr, math.nan if self._score is None else float(score.value)]

    def _look(self, w: Tensor) -> None:
        """Find out on the first examples how scores and standard errors can be had."""
        term = Term(self.definition, take(self.batches[0], 0, min(3, num_examples(self.batches[0]))))
        with torch.no_grad():
            outputs = term.outputs(w)
            loss = term.loss_of_outputs(outputs)
            if self._score is not None:
                value_of_score(self._score, outputs, term.targets)
            if self._share is None:
                return
            self._spread = SingleLosses()
            whole = Term(self.definition, self.batches[0])
            heads = whole.outputs(w)
            together = whole.loss_of_outputs(heads)
            if self._spread.serve(term, outputs, loss) and self._spread.serve(whole, heads, together):
                return
        self._spread = GroupLosses()
        self.batches = cut(self.batches, self._group)
