"""All shards of all sizes: portion after portion, by the quickest way that is sure, shared by processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from landscape.balls import L2, Linf
from landscape.batches import has_lists
from landscape.memory import is_out_of_memory
from landscape.objective import Objective
from landscape.perturbations import Perturbation
from landscape.precision import widest
from landscape.progress import Progress
from landscape.results import Array
from landscape.rises.layerwise import MOST_COPIED, OF_ROWS, LayerByLayer
from landscape.rises.loop import OneAfterAnother
from landscape.rises.rows import Portion, Rows, Run, portions
from landscape.rises.vectorised import WithCopies
from landscape.rises.ways import Rises, Way, require_equal
from landscape.stacks import Ascent
from landscape.work import ALWAYS_QUICK

BUDGET = 64 * 2**20  # bytes that perturbed copies of weights may take
FEWEST = 4  # shards for which the comparison with the definition is worth its time
FEW = 8  # examples to a shard up to which two shards are checked, and not one
BUILDERS: tuple[Callable[[Objective, Sequence[Ascent]], Way], ...] = (LayerByLayer, WithCopies)


class Measurement:
    """The rises of the shards of an objective's data, each perturbed on its own.

    Shards go layer by layer where the model and the perturbation allow it, else with copies of their weights, else one
    after another. Each way is held against the last one on the first shards of each size; where it differs it is given
    up.

    Args:
        objective: the loss and the data.
        perturbations: one, or one at several radii.
        sizes: examples to a shard, different ones.
        progress: called with the shards done and their number.

    Attributes:
        rises: for each size, ``(shards, radii)``, after :meth:`run`.
        weights: for each size, ``(shards,)``, what the loss of each is divided by.
        taken: how many shards went which way, after :meth:`run`.
        reasons: why a way was not taken, by its words.
    """

    def __init__(
        self, objective: Objective, perturbations: Sequence[Perturbation], sizes: Sequence[int], progress: Progress
    ) -> None:
        self.objective = objective
        self.rows = Rows(objective.work.batches)
        self.sizes = list(sizes)
        self.loop = OneAfterAnother(objective, perturbations)
        self.shards = {size: -(-self.rows.number // size) for size in self.sizes}
        self.rises: dict[int, Array] = {s: np.zeros((k, len(perturbations))) for s, k in self.shards.items()}
        self.weights: dict[int, Array] = {size: np.zeros(number) for size, number in self.shards.items()}
        self.taken: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._progress, self._done, self._total = progress, 0, 0
        self._still = [index for index, perturbation in enumerate(perturbations) if perturbation.is_zero]
        self._ways = self._usable(perturbations) if any(map(self._may_pay, self.sizes)) else []
        self._checked: set[tuple[str, int]] = set()
        self._copied: dict[tuple[str, int], float] = {}  # bytes of copies of a shard
        self._budget = BUDGET
        self._way = {size: np.full(number, "", dtype=object) for size, number in self.shards.items()}

    def run(self) -> None:
        """Measure the part of this process, and put all parts together.

        Raises:
            ProcessLostError: if another process has died or failed.
        """
        sharing = self.objective.work.sharing
        whole = self.rows.number
        if sharing.number > 1 and whole in self.sizes:  # the chunks of the one shard are shared, and no shards
            found = self.loop.rise_of(self.objective, 0)
            if sharing.is_first:
                self._keep(Run(whole, whole, 0, 1), found, self.loop.words)
        failure: Exception | None = None
        try:
            self._own([size for size in self.sizes if sharing.number == 1 or size < whole])
        except Exception as error:
            if sharing.number == 1:
                raise
            failure = error
        self.taken = Counter(words for ways in self._way.values() for words in ways if words)
        if sharing.number == 1:
            return
        words = [self.loop.words, *(build.words for build in (LayerByLayer, WithCopies))]
        counts = np.array([float(self.taken[word]) for word in words])
        flat = [self.rises[size].ravel() for size in self.sizes] + [self.weights[size] for size in self.sizes]
        w = self.objective.weights
        parts = [torch.as_tensor(part, dtype=widest(w.device), device=w.device) for part in [*flat, counts]]
        *sums, total = [part.cpu().double().numpy() for part in sharing.summed_unless_failed(parts, failure)]
        for size, rises, weights in zip(self.sizes, sums, sums[len(self.sizes) :], strict=False):
            self.rises[size], self.weights[size] = rises.reshape(self.rises[size].shape), weights
        self.taken = Counter({word: int(count) for word, count in zip(words, total, strict=True) if count})

    def account(self) -> dict[str, Any]:
        """How many shards went which way, and why not another, for a manifest."""
        return {"ways": dict(sorted(self.taken.items())), **({"reasons": self.reasons} if self.reasons else {})}

    def _may_pay(self, size: int) -> bool:
        """Whether a look at the layers is worth its time: for large shards only wide ones can make it pay."""
        wide = [shape for shape in self.objective.space.shapes if len(shape) == 2]
        few = size <= MOST_COPIED or any(OF_ROWS * size * sum(shape) < shape.numel() for shape in wide)
        return few and self.shards[size] >= FEWEST

    def _usable(self, perturbations: Sequence[Perturbation]) -> list[Way]:
        ascents = [Ascent.of(perturbation, balls=(L2, Linf)) for perturbation in perturbations]
        known = [ascent for ascent in ascents if ascent is not None]
        if len(known) < len(ascents):
            self.reasons["all at once"] = f"{perturbations[0]!r} is neither GradientAscent nor AdaptiveAscent"
            return []
        if any(has_lists(batch) for batch in self.objective.work.batches):
            self.reasons["all at once"] = "batches have lists, of texts or the like, which are no tensors"
            return []
        ways = []
        for build in BUILDERS:
            try:
                ways.append(build(self.objective, known))
            except Exception as error:  # whatever a model raises; what is wrong with it shows one after another
                self.reasons[build.words] = str(error) or type(error).__name__  # type: ignore[attr-defined]
        return ways

    def _own(self, sizes: Sequence[int]) -> None:
        sharing = self.objective.work.sharing
        most = self._most_examples() if self._ways else 0
        together = [size for size in sizes if size <= most and self.shards[size] >= FEWEST]
        together = [size for size in together if any(way.pays(size) for way in self._ways)]
        alone = [(size, j) for size in sizes if size not in together for j in range(self.shards[size])]
        found: list[Portion] = []
        if together:
            found = portions(self.rows, together, most=most, number=sharing.number)
        mine = [found[i] for i in sharing.block(len(found))]
        alone = [alone[i] for i in sharing.block(len(alone))]
        self._total = len(alone) + sum(len(portion.shards) for portion in mine)
        for portion in mine:
            self._portion(portion)
        for size, number in alone:
            self._one(size, number)

    def _most_examples(self) -> int:
        work = self.objective.work
        if work.limit is not None:
            return work.limit
        return self.rows.number if self.rows.number <= ALWAYS_QUICK else work.gradient_size

    def _portion(self, portion: Portion) -> None:
        """All shards of a portion, and of its halves where memory runs out."""
        for way in list(self._ways):
            sizes = tuple(size for size in portion.sizes if way.pays(size))
            try:
                self._by(way, replace(portion, sizes=sizes))
            except Exception as error:  # whatever a model raises; what is wrong with it shows one after another
                if not is_out_of_memory(error):
                    self._ways.remove(way)
                    self.reasons[way.words] = str(error) or type(error).__name__
                    continue
                self._budget //= 2
                halves = portion.halves()
                for half in halves:
                    self._portion(half)
                if halves:
                    return
                break
            portion = replace(portion, sizes=tuple(size for size in portion.sizes if size not in sizes))
        for size, number in portion.shards:
            self._one(size, number)

    def _by(self, way: Way, portion: Portion) -> None:
        runs = portion.runs
        if runs:
            start, stop = min(run.start for run in runs), max(run.stop for run in runs)
            (batch,) = self.rows.take(start, stop)  # of one shape: it ends before the border
            found = way.over(batch, start)
            for run in runs:
                left: Run | None = run
                while left is not None:
                    part, left = left.cut(self._shards_at_once(way, left))
                    rises = found.rises(part)
                    self._copied[way.words, run.asked] = found.num_bytes / part.number
                    self._check(way, part, rises)
                    self._keep(part, rises, way.words)
        for size, number in portion.crossing:
            self._one(size, number)

    def _shards_at_once(self, way: Way, run: Run) -> int:
        each = self._copied.get((way.words, run.asked), self.objective.weights.nbytes)
        return max(1, int(self._budget / max(each, 1.0)))

    def _check(self, way: Way, run: Run, found: Rises) -> None:
        """Hold the first shards of a size against the definition.

        Raises:
            UnsupportedError: if they differ.
        """
        sure = found.weights != 0 if found.doubtful is None else (found.weights != 0) & ~found.doubtful
        counted = sure.nonzero().flatten().tolist()
        if not counted or (way.words, run.asked) in self._checked:
            return
        for i in {counted[0], counted[-1 if run.size <= FEW else 0]}:
            start = run.start + i * run.size
            expected = self.loop.rise(self.rows.take(start, start + run.size), run.first + i)
            require_equal(found, i, expected)
        self._checked.add((way.words, run.asked))

    def _one(self, size: int, number: int) -> None:
        start = number * size
        stop = min(start + size, self.rows.number)
        found = self.loop.rise(self.rows.take(start, stop), number)
        self._keep(Run(size, stop - start, number, 1), found, self.loop.words)

    def _keep(self, run: Run, found: Rises, words: str) -> None:
        here = slice(run.first, run.first + run.number)
        rises = found.rises.cpu().double().numpy()
        rises[:, self._still] *= 0.0  # and not what rounding makes of it; what is not finite stays so
        self.rises[run.asked][here] = rises
        self.weights[run.asked][here] = found.weights.cpu().double().numpy()
        self._done += int((self._way[run.asked][here] == "").sum())
        self._way[run.asked][here] = words
        self._progress(self._done, self._total)
        if found.doubtful is not None:
            for i in found.doubtful.nonzero().flatten().tolist():
                self._one(run.asked, run.first + i)
