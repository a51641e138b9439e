"""What questions about an operator will cost, measured on a few products before anything is asked."""

from __future__ import annotations

import contextlib
import math
import statistics
import weakref
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.answers import Forecast
from landscape.arguments import integer
from landscape.batches import tensors
from landscape.certificate import signs
from landscape.estimators import BLOCK
from landscape.operators import CurvatureOperator, require_operator

COLUMNS = 4  # of the block whose time tells what further vectors cost


class Question(NamedTuple):
    """The products that a question takes.

    Attributes:
        name: what it is called.
        typical: products that it takes as a rule.
        most: that it takes at the most.
        block: vectors that go through the operator together.
        vectors: vectors of the operator's dimension that are kept at the most.
    """

    name: str
    typical: int
    most: int
    block: int
    vectors: int


def for_eigenvalues(operator: CurvatureOperator, k: int) -> Question:
    """The k largest eigenvalues at a relative tolerance of about 1e-3: as many products as trained networks took.

    A smaller tolerance, or a spectrum without a gap, takes more. Each vector that is kept is kept with its image, and
    there are a few more at times.
    """
    most = min(operator.dim, max(200, 20 * k))
    held = min(2 * k + 60, most)
    return Question("eigenvalues", min(most, 9 + 2 * k), most, 1, 2 * held + held // 8 + 3 * k + 8)


def for_trace(num_probes: int) -> Question:
    """The trace with a number of products: half of them one after another, half in blocks, all of them kept."""
    return Question("trace", num_probes, num_probes, 1, math.ceil(1.5 * num_probes) + 3 * BLOCK)


def for_density(operator: CurvatureOperator, num_steps: int, num_probes: int, *, outliers: int = 0) -> Question:
    """The spectral density with a number of Lanczos steps for each probe, beside outliers that are known."""
    steps = min(num_steps, operator.dim)
    return Question("density", steps * num_probes, steps * num_probes, 1, steps + 2 * outliers + 8)


def forecast(operator: CurvatureOperator, questions: Sequence[Question], *, repeats: int = 5) -> Forecast:
    """Time one gradient, a product with one vector and one with a block, and multiply.

    A product with b vectors takes a + b c seconds: a for what they share, as a graph that is built for each product, c
    for each vector. n products in blocks of b take ⌈n/b⌉ a + n c. Memory is that of the vectors that are kept, and of
    what autograd holds for one product: the tensors that it saves, counted as they are saved and freed in the first
    product of this operator, without the weights and the data.

    Args:
        operator: on the data that will be asked about; what it keeps for later products counts.
        questions: the questions.
        repeats: timings of each kind, after a warm-up; their median is used, and their spread told.

    Raises:
        TypeError: if the operator is none, or repeats is not an integer.
        ValueError: if there are fewer than two repeats, which leave no spread, or no question.

    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, [(torch.eye(2), torch.ones(2, 1))]))
    >>> asked = Question("trace", typical=100, most=120, block=10, vectors=20)
    >>> forecast(hessian, [asked]).most_products.tolist()
    [120]
    """
    require_operator(operator)
    repeats = integer(repeats, "repeats")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, to give a spread; got {repeats}")
    if not questions:
        raise ValueError("questions is empty; name at least one question")
    if not all(isinstance(question, Question) for question in questions):
        raise TypeError(f"questions must be Question(...), or what for_trace and its like return; got {questions!r}")
    V = signs(operator.weights.new_zeros(operator.dim), COLUMNS).T
    graph = _graph_bytes(operator, V[:, 0])
    objective, w = operator.objective, operator.weights
    objective.gradient(w)
    gradient = [_seconds(lambda: objective.gradient(w)) for _ in range(repeats)]
    single = [_seconds(lambda: operator.apply(V[:, 0])) for _ in range(repeats)]
    block = [_seconds(lambda: operator.apply(V)) for _ in range(repeats)]
    one, several = statistics.median(single), statistics.median(block)
    each = min(max(0.0, (several - one) / (COLUMNS - 1)), one)
    shared = one - each
    noise = max(_spread(single), _spread(block))

    def seconds(question: Question, products: int) -> float:
        return math.ceil(products / question.block) * shared + products * each

    typical = np.array([seconds(question, question.typical) for question in questions])
    vector = operator.dim * operator.weights.element_size()
    return Forecast(
        questions=np.array([question.name for question in questions]),
        products=np.array([question.typical for question in questions]),
        most_products=np.array([question.most for question in questions]),
        seconds=typical,
        spread=noise * typical,
        most_seconds=np.array([seconds(question, question.most) for question in questions]),
        memory=np.array([question.vectors * vector + graph for question in questions]),
        dim=operator.dim,
        gradient_seconds=statistics.median(gradient),
        product_seconds=one,
        graph_bytes=graph,
        manifest=operator.manifest() | {"measurement": {"name": "forecast", "repeats": repeats}},
    )


def _spread(timings: list[float]) -> float:
    """Their standard deviation relative to their median; zero where the clock has not moved."""
    return statistics.stdev(timings) / (statistics.median(timings) or 1.0)


def _seconds(work: Callable[[], Tensor]) -> float:
    started = perf_counter()
    work().reshape(-1)[:1].tolist()  # which waits for the device
    return perf_counter() - started


def _graph_bytes(operator: CurvatureOperator, v: Tensor) -> float:
    """The most bytes that autograd holds during a product, NaN where its tensors cannot be seen."""
    held = _Held([operator.weights, *(part for batch in operator.objective.batches for part in tensors(batch))])
    try:
        with held.counted():
            operator.apply(v)
    except RuntimeError:  # function transforms do not let saved tensors be seen
        operator.apply(v)
        return math.nan
    return float(held.most) if held.seen else math.nan


class _Held:
    """Bytes of the storages that autograd saves, as long as it holds them."""

    def __init__(self, others: Sequence[Tensor]) -> None:
        self.others = {part.untyped_storage().data_ptr() for part in others}
        self.counts: dict[int, int] = {}
        self.bytes = self.most = 0
        self.seen = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is saved within the block."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor):
            yield

    def _pack(self, tensor: Tensor) -> _Saved:
        self.seen = True
        saved, storage = _Saved(tensor), tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.others:
            if place not in self.counts:
                self.bytes += size
                self.most = max(self.most, self.bytes)
            self.counts[place] = self.counts.get(place, 0) + 1
            weakref.finalize(saved, self._free, place, size)
        return saved

    def _free(self, place: int, size: int) -> None:
        self.counts[place] -= 1
        if not self.counts[place]:
            del self.counts[place]
            self.bytes -= size


class _Saved:
    """A tensor that autograd holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an operation's own output would hold the operation, and that holds this
