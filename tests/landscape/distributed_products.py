"""Run by several processes: numbers of an objective whose chunks they share; see test_distributed.py."""

import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn

from landscape import (
    EmpiricalFisherOperator,
    ExactGaussNewton,
    FastestProducts,
    GGNOperator,
    GradientAscent,
    HessianOperator,
    KeptGraphs,
    KrylovAware,
    Objective,
    PerExample,
    RebuiltGraphs,
    ResidualOperator,
    XTrace,
    diagonal,
    m_sharpness,
    m_sharpness_grid,
    spectral_density,
    top_eigenvalues,
    trace,
)
from landscape.chunks import GraphSize
from landscape.processes import Together
from landscape.soundness import against_quotients


def measured(sharing, way):
    """Loss, gradient and products of a network under a loss of tokens, some of them ignored."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(17, 6, generator=generator).double()
    targets = torch.randint(0, 3, (17,), generator=generator)
    targets[:7] = -100  # the first chunks have nothing to count
    data = [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])]
    objective = Objective(model, nn.CrossEntropyLoss(), data, chunk_size=4, products=way, sharing=sharing)
    w = objective.weights + 0.1
    V = torch.randn(objective.space.dim, 3, generator=generator).double()
    found = {"loss": objective.loss(w), "gradient": objective.gradient(w), "weight": torch.tensor(objective.weight)}
    for kind in (HessianOperator, GGNOperator, ResidualOperator, EmpiricalFisherOperator):
        operator = kind(objective, weights=w)
        found[kind.__name__] = torch.stack([operator.apply(V), operator.apply(V)])
    known = diagonal(GGNOperator(objective, weights=w), 40, estimator=ExactGaussNewton())
    found["diagonal"] = torch.tensor(known.estimates.tolist(), dtype=torch.float64)
    hessian = HessianOperator(objective, weights=w)
    for estimator in (ExactGaussNewton(), ExactGaussNewton(KrylovAware()), PerExample()):
        found[repr(estimator)] = torch.tensor(trace(hessian, 9, estimator=estimator).samples.copy())
    return found


def sharpness(sharing):
    """Rises of shards of several sizes and radii, of a few that are empty, and of all the data; and the exchanges."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(17, 6, generator=generator).double()
    targets = torch.randint(0, 3, (17,), generator=generator)
    targets[:3] = -100
    objective = Objective(
        model, nn.CrossEntropyLoss(), [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])], sharing=sharing
    )
    before = getattr(sharing, "exchanges", 0)
    grid = m_sharpness_grid(objective, GradientAscent(0.1), microbatch_sizes=[1, 3, 7], radii=[0.1, 0.3])
    exchanges = getattr(sharing, "exchanges", 0) - before
    whole = m_sharpness(objective, GradientAscent(0.1), microbatch_size=17)
    results = [*(result for of_size in grid for result in of_size), whole]
    found = {"exchanges": exchanges, "ways": sum(grid[0][0].manifest["machine"]["shards"]["ways"].values())}
    for index, result in enumerate(results):
        found[f"shards {index}"] = torch.tensor(result.per_shard.tolist(), dtype=torch.float64)
        found[f"numbers {index}"] = torch.tensor([result.value, *result.denominators])
    return found


class Counting(Together):
    """Counts the exchanges."""

    exchanges = 0

    def summed(self, parts):
        self.exchanges += 1
        return super().summed(parts)


def exchanges_of_a_product(sharing):
    """How many a product takes."""
    model = nn.Linear(6, 3).double()
    data = [(torch.ones(17, 6).double(), torch.arange(17) % 3)]
    hessian = HessianOperator(Objective(model, nn.functional.cross_entropy, data, chunk_size=4, sharing=sharing))
    hessian.apply(hessian.weights)
    before = sharing.exchanges
    hessian.apply(hessian.weights)
    return sharing.exchanges - before


NAMES = ("all_reduce", "broadcast", "all_gather", "reduce", "gather", "scatter", "barrier")


@contextmanager
def collectives():
    """Counts what processes exchange within it, by name."""
    counts = Counter()

    def counted(name):
        honest = getattr(torch.distributed, name)
        return lambda *given, **named: (counts.update([name]), honest(*given, **named))[1]

    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(mock.patch.object(torch.distributed, name, counted(name)))
        yield counts


def small_hessian(sharing):
    """Of a network with 83 weights on 17 examples in five chunks; it has had its first product."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = [(torch.linspace(-1, 1, 102).reshape(17, 6).double().sin(), torch.arange(17) % 3)]
    hessian = HessianOperator(Objective(model, nn.functional.cross_entropy, data, chunk_size=4, sharing=sharing))
    hessian.apply(hessian.weights)
    return hessian


QUESTIONS = {  # the search looks for copies and restarts
    "pairs": lambda hessian, **limit: top_eigenvalues(hessian, 3, tol=1e-9, max_basis=24, **limit).eigenvalues,
    "both ends": lambda hessian, **limit: top_eigenvalues(hessian, 4, which="BE", tol=1e-9, **limit).eigenvalues,
    "trace": lambda hessian, **limit: [trace(hessian, 60, **limit).estimate],
    "XTrace": lambda hessian, **limit: [trace(hessian, 60, estimator=XTrace(), **limit).estimate],
    "precise trace": lambda hessian, **limit: [trace(hessian, 80, rtol=0.05, **limit).estimate],
    "density": lambda hessian, **limit: spectral_density(hessian, 20, num_probes=4, **limit).nodes.ravel(),
}


def exchanges_of(sharing, question, **limit):
    """The passes over the data, the exchanges by name, and what was found."""
    hessian = small_hessian(sharing)
    with mock.patch.object(hessian, "apply", wraps=hessian.apply) as apply, collectives() as counts:
        found = QUESTIONS[question](hessian, **limit)
    return apply.call_count, dict(counts), [float(value) for value in found]


def failing(sharing):
    """One process cannot evaluate its chunks: it says why, and the others that another one has failed."""
    model = nn.Linear(6, 3).double()
    data = [(torch.ones(17, 6).double(), torch.arange(17) % 3)]
    objective = Objective(model, nn.functional.cross_entropy, data, chunk_size=4, sharing=sharing)
    if sharing.rank == sharing.number - 1:
        objective.work.loss_terms[0].batch = (torch.ones(4, 5).double(), torch.zeros(4).long())
    try:
        objective.loss(objective.weights)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def in_time(sharing):
    """What is found within some seconds by processes whose clocks differ: that of the first is slow."""
    now, pace = [0.0], 1.0 if sharing.is_first else 1000.0

    def later():
        now[0] += pace
        return now[0]

    hessian = small_hessian(sharing)
    with mock.patch("time.monotonic", later):
        pairs = top_eigenvalues(hessian, 2, tol=1e-9, max_seconds=8.5)
        estimate = trace(hessian, 60, max_seconds=3.5)
        density = spectral_density(hessian, 10, num_probes=9, max_seconds=4.5)
    return {
        "pairs": [pairs.stopped, pairs.num_products, *pairs.eigenvalues.tolist()],
        "trace": [estimate.stopped, estimate.num_products, estimate.estimate],
        "density": [density.stopped, *density.nodes.shape, float(density.nodes.sum())],
    }


class Slow(RebuiltGraphs):
    """A way that takes its time on one process."""

    def __init__(self, rank):
        self.rank = rank

    def bind(self, curvature, w, terms, *, graph_bytes, sharing):
        bound = super().bind(curvature, w, terms, graph_bytes=graph_bytes, sharing=sharing)
        product = bound.product

        def slowly(term, V):
            time.sleep(0.05 * (sharing.rank == self.rank))
            return product(term, V)

        bound.product = slowly
        return bound


def chosen(sharing):
    """The way that each takes where the first way is slow on the first process and the second on the others."""
    way = FastestProducts(Slow(0), *(Slow(rank) for rank in range(1, sharing.number)), KeptGraphs())
    model = nn.Linear(6, 3).double()
    data = [(torch.ones(17, 6).double(), torch.arange(17) % 3)]
    objective = Objective(model, nn.functional.cross_entropy, data, chunk_size=4, products=way, sharing=sharing)
    hessian = HessianOperator(objective)
    hessian.apply(hessian.weights)
    return hessian.words


class Wrong(RebuiltGraphs):
    """A way that is wrong on the last process."""

    def bind(self, curvature, w, terms, *, graph_bytes, sharing):
        bound = super().bind(curvature, w, terms, graph_bytes=graph_bytes, sharing=sharing)
        product, factor = bound.product, 1 + (sharing.rank == sharing.number - 1)
        bound.product = lambda term, V: factor * product(term, V)
        return bound


def wrongly_chosen(sharing):
    """What is said where one process finds that two ways differ."""
    data = [(torch.ones(17, 6).double(), torch.arange(17) % 3)]
    way, model = FastestProducts(Wrong(), KeptGraphs()), nn.Linear(6, 3).double()
    objective = Objective(model, nn.functional.cross_entropy, data, chunk_size=4, products=way, sharing=sharing)
    try:
        HessianOperator(objective).apply(objective.weights)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def cut_alike(sharing):
    """The loss where each process takes graphs to be of another size."""
    data = [(torch.linspace(0, 1, 600).reshape(100, 6).double(), torch.arange(100) % 3)]
    torch.manual_seed(4)
    model = nn.Linear(6, 3).double()
    with mock.patch.object(GraphSize, "chunk", return_value=16 * 2**sharing.rank):
        objective = Objective(model, nn.functional.cross_entropy, data, sharing=sharing)
        return float(objective.loss(objective.weights)), objective.weight


class Single(nn.Linear):
    """There is no double precision."""

    def forward(self, x):
        if x.dtype == torch.float64:
            raise RuntimeError("there is no kernel for double")
        return super().forward(x)


def in_single(sharing):
    """How products are held against difference quotients where only the first process has a chunk."""
    data = [(torch.linspace(0, 1, 102).reshape(17, 6), torch.arange(17) % 3)]
    torch.manual_seed(5)
    objective = Objective(Single(6, 3), nn.functional.cross_entropy, data, chunk_size=17, sharing=sharing)
    finding = against_quotients(HessianOperator(objective), None, seed=0)
    return finding.verdict, finding.remark


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    sharing = Counting()
    found = {"kept": measured(sharing, KeptGraphs()), "rebuilt": measured(sharing, RebuiltGraphs())}
    found["sharpness"] = sharpness(sharing)
    found["exchanges"] = exchanges_of_a_product(sharing)
    found["questions"] = {name: exchanges_of(sharing, name) for name in QUESTIONS}
    found["limited"] = {name: exchanges_of(sharing, name, max_seconds=1e6) for name in QUESTIONS}
    found["in_time"] = in_time(sharing)
    found["chosen"] = chosen(sharing)
    found["wrongly_chosen"] = wrongly_chosen(sharing)
    found["cut_alike"] = cut_alike(sharing)
    found["in_single"] = in_single(sharing)
    found["error"] = failing(sharing)
    torch.save(found, f"{sys.argv[1]}/rank{sharing.rank}.pt")
    sharing.wait()
    torch.distributed.destroy_process_group()
