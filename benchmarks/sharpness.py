"""m-sharpness of this package and of the published protocol: one shard after another, and several sizes in one call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import nets
from benchmarks.harness import INTERVAL, compare
from benchmarks.machine import machine
from landscape import GradientAscent, Objective, Sharpness, m_sharpness, m_sharpness_grid
from landscape.results import Array

RHO = 0.05
SIZES = (1, 4, 16, 64, 128)
PUBLISHED, OURS = "the published protocol", "this package"
CHECKED = 16  # examples that are compared in double precision, in shards of one, four and all


@dataclass(frozen=True)
class Problem:
    """A network, the shape of its images, and how many of them.

    Attributes:
        build: makes the network.
        image: the shape of an image.
        examples: of the data; fewer where it is to be quick.
        gains: how many times faster than the published protocol it is to be, for some sizes of shards.
    """

    build: Callable[[], nn.Module]
    image: tuple[int, ...]
    examples: tuple[int, int]
    gains: Mapping[int, float]

    def model_and_data(self, number: int, dtype: torch.dtype, device: str) -> tuple[nn.Module, Tensor, Tensor]:
        """The same weights and examples every time."""
        torch.manual_seed(0)
        images, labels = torch.randn(number, *self.image), torch.randint(0, 10, (number,))
        return self.build().to(device, dtype).eval(), images.to(device, dtype), labels.to(device)


PROBLEMS = {
    "MLP": Problem(nets.mlp, (1, 8, 8), (8192, 2048), {1: 2, **dict.fromkeys(SIZES[1:], 1)}),
    "ViT": Problem(nets.vit, (3, 32, 32), (1024, 256), {1: 2, **dict.fromkeys(SIZES[1:], 1)}),
    "ResNet-20": Problem(nets.resnet20, (3, 32, 32), (512, 128), {1: 2}),
}


def published(model: nn.Module, images: Tensor, labels: Tensor, size: int) -> Array:
    """Foret et al. 2021 as Andriushchenko et al. 2023 measure it, shard after shard, the weights moved in place."""
    weights = list(model.parameters())
    originals = [weight.detach().clone() for weight in weights]
    rises = []
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = functional.cross_entropy(model(x), y)
        slopes = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(slope) for slope in slopes]))
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(slope * (RHO / length))
            rises.append((functional.cross_entropy(model(x), y) - loss).item())
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
    return np.array(rises)


def objective_of(model: nn.Module, images: Tensor, labels: Tensor) -> Objective:
    """The same as an objective, in batches of 128 examples."""
    data = list(zip(images.split(128), labels.split(128), strict=True))
    return Objective(model, functional.cross_entropy, data)


def require_equal(problem: Problem, device: str) -> None:
    """Both find the same rises in double precision, however large the shards."""
    model, images, labels = problem.model_and_data(CHECKED, torch.float64, device)
    found = m_sharpness_grid(objective_of(model, images, labels), GradientAscent(RHO), microbatch_sizes=(1, 4, CHECKED))
    for size, (result,) in zip((1, 4, CHECKED), found, strict=True):
        expected = published(model, images, labels, size)
        if not np.allclose(result.per_shard, expected, rtol=1e-9, atol=1e-12):
            raise RuntimeError(f"shards of {size} are off by {np.abs(result.per_shard - expected).max():.1e}")


def ways(result: Sharpness) -> str:
    """How the shards went."""
    return ", ".join(result.manifest["machine"]["shards"]["ways"])


def rows(problem: Problem, number: int, sizes: tuple[int, ...], rounds: int, device: str) -> tuple[list[str], float]:
    """The table of one network, and the largest share of the machine that other processes took."""
    model, images, labels = problem.model_and_data(number, torch.float32, device)
    objective, ascent, busy, lines = objective_of(model, images, labels), GradientAscent(RHO), 0.0, []

    def timed(run: Callable[[], object]) -> Callable[[], None]:
        def once() -> None:
            run()
            if device != "cpu":
                torch.accelerator.synchronize()

        return once

    for size in sizes:
        result = m_sharpness(objective, ascent, microbatch_size=size)
        off = float(np.abs(result.per_shard - published(model, images, labels, size)).max())
        candidates = {
            OURS: timed(lambda size=size: m_sharpness(objective, ascent, microbatch_size=size)),  # type: ignore[misc]
            PUBLISHED: timed(lambda size=size: published(model, images, labels, size)),  # type: ignore[misc]
        }
        ratios, others = compare(candidates, rounds=rounds, reference=OURS, warm=0)
        gain, wanted, busy = ratios[PUBLISHED], problem.gains.get(size), max(busy, others)
        target = "" if wanted is None else f"{'met' if gain.median >= wanted else 'missed'}: ≥ {wanted}"
        lines.append(f"| {size} | {ways(result)} | {gain} | {off:.0e} | {target} |")

    def one_after_another() -> None:
        for size in sizes:
            m_sharpness(objective, ascent, microbatch_size=size)

    together = timed(lambda: m_sharpness_grid(objective, ascent, microbatch_sizes=sizes))
    candidates = {"one call": together, "one after another": timed(one_after_another)}
    ratios, others = compare(candidates, rounds=rounds, reference="one call")
    gain = ratios["one after another"]
    lines.append(
        f"| all sizes | one call, against one after another of this package | {gain} |  | "
        f"{'met' if gain.median > 1 else 'missed'}: > 1 |"
    )
    return lines, max(busy, others)


def main(arguments: Sequence[str] = ()) -> None:
    """Print tables for the performance page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sharpness", description=__doc__)
    parser.add_argument("--nets", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="examples per shard")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a quarter of the examples, three rounds")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(arguments)
    rounds = min(chosen.rounds, 3) if chosen.quick else chosen.rounds
    print(f"{machine(chosen.device)}, float32\n")
    for name in chosen.nets:
        problem = PROBLEMS[name]
        require_equal(problem, chosen.device)
        number = problem.examples[chosen.quick]
        lines, busy = rows(problem, number, tuple(chosen.sizes), rounds, chosen.device)
        print(f"**{name}**, {number} examples; the same in double precision.\n")
        print(
            f"| examples per shard | way | times faster than the published protocol: {INTERVAL} | largest difference "
            "| target |"
        )
        print("|---|---|---|---|---|")
        print("\n".join(lines))
        print(f"\nOther processes took {busy:.0%} of the machine at the most.\n", flush=True)
