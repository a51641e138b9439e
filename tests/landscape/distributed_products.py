"""Run by several processes: numbers of an objective whose chunks they share; see test_distributed.py."""

import sys

import torch
from torch import nn

from landscape import (
    EmpiricalFisherOperator,
    GGNOperator,
    GradientAscent,
    HessianOperator,
    KeptGraphs,
    Objective,
    RebuiltGraphs,
    m_sharpness,
    m_sharpness_grid,
)
from landscape.processes import Together


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
    for kind in (HessianOperator, GGNOperator, EmpiricalFisherOperator):
        operator = kind(objective, weights=w)
        found[kind.__name__] = torch.stack([operator.apply(V), operator.apply(V)])
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


def failing(sharing):
    """One process cannot evaluate its chunks: it says why, and the others that another one has failed."""
    model = nn.Linear(6, 3).double()
    data = [(torch.ones(17, 6).double(), torch.arange(17) % 3)]
    objective = Objective(model, nn.functional.cross_entropy, data, chunk_size=4, sharing=sharing)
    if sharing.rank == sharing.number - 1:
        objective.work.terms[0].batch = (torch.ones(4, 5).double(), torch.zeros(4).long())
    try:
        objective.loss(objective.weights)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    sharing = Counting()
    found = {"kept": measured(sharing, KeptGraphs()), "rebuilt": measured(sharing, RebuiltGraphs())}
    found["sharpness"] = sharpness(sharing)
    found["exchanges"] = exchanges_of_a_product(sharing)
    found["error"] = failing(sharing)
    torch.save(found, f"{sys.argv[1]}/rank{sharing.rank}.pt")
    sharing.wait()
    torch.distributed.destroy_process_group()
