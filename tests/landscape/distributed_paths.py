"""Run by several processes: paths whose losses they share; see test_distributed_paths.py."""

import sys

import torch
from torch import nn

from landscape import Objective, accuracy, align, bezier, interpolate
from landscape.batch_norm import Frozen, Recomputed
from landscape.curves import BendTraining
from landscape.processes import Together


def objectives(sharing):
    """Of two networks with batch norm over training data, 17 examples in chunks of 4, and one of them over 8 others."""
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(number, 4, generator=generator).double(), torch.arange(number) % 3) for number in (17, 8)]
    found = []
    for seed, rows in ((1, data[0]), (2, data[0]), (1, data[1])):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
        found.append(Objective(model, nn.functional.cross_entropy, [rows], chunk_size=4, sharing=sharing))
    return found


def measured(sharing):
    """A straight line, one after alignment, and a trained curve, with all that can be asked for."""
    a, b, held_out = objectives(sharing)
    how = {"points": 5, "held_out": held_out, "score": accuracy}
    training = BendTraining(epochs=2, batch_size=6)
    return {
        "straight": interpolate(a, b, batch_norm=Recomputed(a), **how),
        "aligned": interpolate(a, align(a, b, restarts=2).objective, batch_norm=Frozen(), **how),
        "curve": bezier(a, b, batch_norm=Recomputed(a), training=training, **how),
    }


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    pair = torch.distributed.new_group([0, 1])
    sharings = [Together(), *([Together(pair)] if torch.distributed.get_rank() < 2 else [])]
    for sharing in sharings:
        for name, result in measured(sharing).items():
            result.save(f"{sys.argv[1]}/{sharing.number}/{name}{sharing.rank}.npz")
    sharings[0].wait()
    torch.distributed.destroy_process_group()
