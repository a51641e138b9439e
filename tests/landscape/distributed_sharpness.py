"""Run by several processes: kinds of sharpness of an objective whose work they share; see the test beside it."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from landscape import (
    GGNOperator,
    GradientAscent,
    HessianOperator,
    Objective,
    accuracy,
    average_case_curve,
    average_case_sharpness,
    fisher_rao_norm,
    keskar_sharpness,
    low_pass_flatness,
    m_sharpness_grid,
    pac_bayes_sigma,
    relative_flatness,
    worst_case_sharpness,
)
from landscape.processes import Together


def measured(sharing):
    """Every kind, on data of which some targets are ignored."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(17, 6, generator=generator).double(), torch.arange(17) % 3
    targets[:4] = -100  # the first shard has nothing to count
    data = [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])]
    objective = Objective(model, nn.CrossEntropyLoss(), data, chunk_size=4, sharing=sharing)
    ascent = GradientAscent(0.3)
    shards = worst_case_sharpness(objective, ascent, microbatch_size=4, steps=4, restarts=2)
    found = {
        "shards": shards.per_shard.tolist(),
        "denominators": shards.denominators.tolist(),
        "whole": worst_case_sharpness(objective, ascent, microbatch_size=17, steps=4).value,
        "average": average_case_sharpness(objective, ascent, num_draws=3).samples.tolist(),
        "low pass": low_pass_flatness(objective, sigma=0.1, num_draws=2).value,
        "sigma": pac_bayes_sigma(objective, num_draws=2).sigma,
        "sigma of accuracy": pac_bayes_sigma(objective, score=accuracy, num_draws=4).sigma,
        "Keskar": keskar_sharpness(objective, epsilon=0.01, steps=4).value,
        "Fisher-Rao": fisher_rao_norm(GGNOperator(objective), microbatch_size=4).per_shard.tolist(),
        "relative flatness": relative_flatness(HessianOperator(objective), num_probes=4).value,
    }
    return found | {"starts": shards.starts.tolist()}


def in_one_chunk(sharing):
    """In single precision, of so few examples that they are one chunk: all processes but one have none."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(17, 6, generator=generator), torch.arange(17) % 3)]
    objective = Objective(nn.Linear(6, 3), nn.functional.cross_entropy, data, sharing=sharing)
    curve = average_case_curve(objective, GradientAscent(0.1), rhos=[0.1, 0.3], num_draws=3)
    sizes = m_sharpness_grid(objective, GradientAscent(0.1), microbatch_sizes=[17, 5])
    return {
        "loss": objective.loss(objective.weights).item(),
        "curve": curve.values.tolist(),
        "sizes": [result.value for (result,) in sizes],
        "sigma of accuracy": pac_bayes_sigma(objective, score=accuracy, num_draws=4).sigma,
    }


def failing(sharing):
    """One process cannot evaluate its shards: it says why, and the others that another one has failed."""
    objective = Objective(
        nn.Linear(6, 3).double(),
        nn.functional.cross_entropy,
        [(torch.ones(17, 6).double(), torch.arange(17) % 3)],
        sharing=sharing,
    )
    if sharing.rank == sharing.number - 1:
        objective.shards = lambda size: iter([None] * 5)
    try:
        worst_case_sharpness(objective, GradientAscent(0.1), microbatch_size=4)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    sharing = Together()
    found = measured(sharing) | {"one chunk": in_one_chunk(sharing)} | {"error": failing(sharing)}
    Path(sys.argv[1], f"rank{sharing.rank}.json").write_text(json.dumps(found))
    sharing.wait()
    torch.distributed.destroy_process_group()
