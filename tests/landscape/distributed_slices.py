"""Run by several processes: slices whose points they share; see test_distributed_slices.py."""

import sys

import numpy as np
import torch
from torch import nn

from landscape import Adaptive, Objective, accuracy, line_slice, plane_slice
from landscape.processes import Together


def objectives(sharing):
    """Of a network with batch norm, over training and held-out data."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3))
    generator = torch.Generator().manual_seed(3)
    found = []
    for number in (17, 8):
        data = (torch.randn(number, 2, 4, generator=generator).double(), torch.arange(number) % 3)
        objective = Objective(model.double().eval(), nn.functional.cross_entropy, [data], chunk_size=4, sharing=sharing)
        found.append(objective)
    return found


def measured(sharing, folder=None):
    """A plane with everything that can be asked for, an adaptive one, and a line with fewer points than processes."""
    objective, held_out = objectives(sharing)
    generator = torch.Generator().manual_seed(5)
    d1, d2 = (torch.randn(objective.space.dim, generator=generator).double() for _ in range(2))
    sample = objective.sample(9, seed=0)
    grid, kept = np.linspace(-1, 1, 12), None if folder is None else f"{folder}/points.npz"
    plane = plane_slice(sample, (d1, d2), x=grid, y=grid[:5], held_out=held_out, score=accuracy, kept=kept)
    adaptive = plane_slice(objective, (d1, d2), x=grid, y=grid, sampling=Adaptive(tolerance=0.1))
    return {"plane": plane, "adaptive": adaptive, "line": line_slice(objective, d1, coordinates=[1e300, 0.5])}


class Counting(Together):
    """Counts the exchanges."""

    exchanges = 0

    def summed(self, parts):
        self.exchanges += 1
        return super().summed(parts)


def sentence(ask):
    """What is said when something is refused or fails."""
    try:
        ask()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def failing(sharing):
    """The last process cannot compute the score at its points."""
    objective, _ = objectives(sharing)
    calls = []

    def score(outputs, targets):
        calls.append(1)
        if sharing.rank == sharing.number - 1 and len(calls) > 8:
            raise FloatingPointError("here")
        return outputs.mean()

    return sentence(lambda: line_slice(objective, objective.weights, coordinates=np.linspace(0, 1, 40), score=score))


def different(sharing):
    """Each process has a direction of its own."""
    objective, _ = objectives(sharing)
    return sentence(lambda: line_slice(objective, objective.weights + sharing.rank, coordinates=[0.0, 1.0]))


def refused(sharing, folder):
    """The file holds points of another question, which the first process alone finds out."""
    objective, _ = objectives(sharing)
    return sentence(
        lambda: line_slice(objective, objective.weights, coordinates=[0.0, 1.0], kept=f"{folder}/points.npz")
    )


def exchanges(sharing):
    """How many a line of 31 points takes that is evaluated within seconds."""
    objective, _ = objectives(sharing)
    before = sharing.exchanges
    line_slice(objective, objective.weights, coordinates=np.linspace(0, 1, 31))
    return sharing.exchanges - before


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    folder = sys.argv[1]
    pair = torch.distributed.new_group([0, 1])
    groups = [Counting(), *([Counting(pair)] if torch.distributed.get_rank() < 2 else [])]
    for sharing in groups:
        for name, result in measured(sharing, f"{folder}/{sharing.number}").items():
            result.save(f"{folder}/{sharing.number}/{name}{sharing.rank}.npz")
    sharing = groups[0]
    found = {
        "exchanges": exchanges(sharing),
        "failing": failing(sharing),
        "different": different(sharing),
        "refused": refused(sharing, f"{folder}/3"),
    }
    torch.save(found, f"{folder}/rank{sharing.rank}.pt")
    sharing.wait()
    torch.distributed.destroy_process_group()
