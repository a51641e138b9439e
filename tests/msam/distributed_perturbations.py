"""Run by several processes: steps with what learns or draws at random; see test_distributed_perturbations.py."""

import sys

import torch
from torch import nn
from torch.nn import functional

from landscape import CentralizedAscent, FriendlyAscent, GradientAscent, Linf, RandomPerturbation, SeveralSteps
from msam import (
    BatchStatistics,
    CentralizedDescent,
    DeterminantDescent,
    FrobeniusDescent,
    ShardStatistics,
    TraceDescent,
    launched,
    mSAM,
)

STEPPED = {
    "friendly": lambda: FriendlyAscent(0.1),
    "gcsam": lambda: CentralizedDescent(CentralizedAscent(0.1)),
    "random": lambda: RandomPerturbation(0.1, seed=3),
    "several": lambda: SeveralSteps(GradientAscent(0.01, ball=Linf()), steps=2),
    "trace": lambda: TraceDescent(0.1),
    "frobenius": lambda: FrobeniusDescent(0.1, lam=0.1),
    "determinant": lambda: DeterminantDescent(1.0, samples=2),
    "whole batch": lambda: GradientAscent(0.1),
}


def trained(name, processes, *, num_microbatches):
    """Losses, weights and buffers after some steps, and what was learnt."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)).double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    policy = BatchStatistics() if name == "whole batch" else ShardStatistics()
    settings = {"num_microbatches": num_microbatches, "module": model, "seed": 7}
    optimizer = mSAM(sgd, STEPPED[name](), batch_norm=policy, processes=processes, **settings)
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(3):
        batch = torch.randn(17, 6, generator=generator).double(), torch.randint(0, 3, (17,), generator=generator)
        losses.append(optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), batch))
    learnt = optimizer.state_dict()["msam"]["learnt"].get("momentum", [])
    named = {f"momentum {i}": part for i, part in enumerate(learnt)}
    return {"losses": torch.stack(losses), **model.state_dict(), **named}


if __name__ == "__main__":
    with launched("cpu") as (processes, _):
        states = {f"{name} {m}": trained(name, processes, num_microbatches=m) for name in STEPPED for m in (2, 5)}
        torch.save(states, f"{sys.argv[1]}/rank{processes.rank}.pt")
