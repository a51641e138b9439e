"""Loss planes beside the per-point method of Li et al. 2018 and loss-landscapes, and what adaptive ones evaluate."""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import nets
from benchmarks.harness import INTERVAL, compare
from benchmarks.machine import machine
from landscape import Adaptive, Objective, PlaneSlice, filter_normalized, plane_slice
from msam import TrainConfig, mSAM

Grid = npt.NDArray[np.float64]
REFERENCE = "Li 2018"
BATCH = 128  # of the published method's loader
ERROR = 1e-6  # relative, of a loss in single precision


@dataclass(frozen=True)
class Problem:
    """A network, its data, and what is asked of us.

    Attributes:
        build: makes it, untrained.
        channels: of an image, whose colours are alike.
        side: of an image, in pixels.
        number: examples that planes are timed on.
        few: examples of the planes that adaptive sampling is tried on.
        epochs: of training before.
        faster: than the reference, at least.
        fewer: evaluations of the adaptive plane, at least; None where whatever comes out is said.
    """

    build: Callable[[], nn.Module]
    channels: int
    side: int
    number: int
    few: int
    epochs: int
    faster: float | None
    fewer: float | None


PROBLEMS = {
    "MLP": Problem(nets.mlp, channels=1, side=8, number=1000, few=1000, epochs=20, faster=2.5, fewer=20),
    "LeNet-300-100": Problem(
        nets.lenet_300_100, channels=1, side=28, number=1000, few=1000, epochs=20, faster=None, fewer=None
    ),
    "ViT": Problem(nets.vit, channels=3, side=32, number=128, few=64, epochs=10, faster=None, fewer=6),
    "ResNet-20": Problem(
        nets.resnet20_batch_norm, channels=3, side=32, number=256, few=64, epochs=5, faster=1.5, fewer=None
    ),
}


class Planes:
    """One network after training on digits, two directions, and every way of computing the plane they span."""

    def __init__(self, problem: Problem, *, points: int) -> None:
        task = TrainConfig(settings={"model": "mlp"}).load_task()
        images, labels = task.train.inputs.float().view(-1, 1, 8, 8), task.train.targets
        if problem.side != images.shape[-1]:
            images = functional.interpolate(images, size=problem.side, mode="bilinear")
        images = images.expand(-1, problem.channels, -1, -1).contiguous()
        torch.manual_seed(0)
        self.model = problem.build()
        optimizer = mSAM(torch.optim.Adam(self.model.parameters(), 1e-3), None, module=self.model)
        for _ in range(problem.epochs):
            for chosen in torch.randperm(len(images)).split(64):
                optimizer.step(
                    lambda b: functional.cross_entropy(self.model(b[0]), b[1]), (images[chosen], labels[chosen])
                )
        self.model.eval()
        self.images, self.labels = images[: problem.number], labels[: problem.number]
        self.loader = DataLoader(TensorDataset(self.images, self.labels), batch_size=BATCH)
        self.objective = self.over(problem.number)
        first = filter_normalized(self.objective, seed=0)
        self.directions = first, filter_normalized(self.objective, seed=1, orthogonal_to=first)
        self.grid = np.linspace(-1, 1, points)

    def over(self, number: int) -> Objective:
        """The objective over some of the examples."""
        return Objective(self.model, functional.cross_entropy, [(self.images[:number], self.labels[:number])])

    def ours(self) -> Grid:
        """By ``plane_slice``, all that it sets up and checks included."""
        return self.slice().losses

    def slice(self) -> PlaneSlice:
        """The same with its manifest."""
        return plane_slice(self.objective, self.directions, x=self.grid, y=self.grid)

    def published(
        self, *, batches: Sequence[tuple[Tensor, Tensor]] | None = None, dtype: torch.dtype = torch.float32
    ) -> Grid:
        """Li et al. 2018: at each point w + x d₁ + y d₂ parameter by parameter, then a pass over a loader.

        Args:
            batches: in place of the loader, which puts them together anew at each pass.
            dtype: double for the truth.
        """
        model = copy.deepcopy(self.model).to(dtype)
        parameters = list(model.parameters())
        start = [p.detach().clone() for p in parameters]
        first, second = ([d.to(dtype) for d in self.objective.space.split(each)] for each in self.directions)
        losses = np.empty((len(self.grid), len(self.grid)))
        with torch.no_grad():
            for j, v in enumerate(self.grid):
                for i, u in enumerate(self.grid):
                    for p, w, d1, d2 in zip(parameters, start, first, second, strict=True):
                        p.data = w + (d1 * float(u) + d2 * float(v))
                    total = 0.0
                    for inputs, targets in self.loader if batches is None else batches:
                        loss = functional.cross_entropy(model(inputs.to(dtype)), targets)
                        total += loss.item() * len(targets)
                    losses[j, i] = total / len(self.labels)
        return losses

    def peer(self) -> Grid:
        """loss-landscapes: the plane from the lower left corner along both directions."""
        import loss_landscapes
        from loss_landscapes.metrics import Loss

        def moved(x: float, y: float) -> nn.Module:
            model = copy.deepcopy(self.model)
            w = self.objective.weights + x * self.directions[0] + y * self.directions[1]
            nn.utils.vector_to_parameters(w, model.parameters())
            return model

        low, steps = float(self.grid[0]), len(self.grid)
        past = low + steps * float(self.grid[1] - self.grid[0])
        corner, right, above = moved(low, low), moved(past, low), moved(low, past)
        metric = Loss(functional.cross_entropy, self.images, self.labels)
        found: Grid = loss_landscapes.planar_interpolation(corner, above, right, metric, steps, deepcopy_model=True)
        return found


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks slices", description=__doc__)
    parser.add_argument("--nets", default=",".join(PROBLEMS), help="which of them, with commas between")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each candidate")
    parser.add_argument("--points", type=int, default=7, help="along each axis of the planes that are timed")
    parser.add_argument("--adaptive-points", type=int, default=51, help="along each axis of the adaptive ones; 0: none")
    options = parser.parse_args(arguments)
    print(f"{machine()}, float32.\n")
    for name in options.nets.split(","):
        planes = Planes(PROBLEMS[name], points=options.points)
        _times(name, PROBLEMS[name], planes, options.rounds)
        if options.adaptive_points:
            _adaptive(PROBLEMS[name], planes, options.adaptive_points)


def _times(name: str, problem: Problem, planes: Planes, rounds: int) -> None:
    batches = list(zip(planes.images.split(BATCH), planes.labels.split(BATCH), strict=True))
    candidates: dict[str, Callable[[], Grid]] = {
        REFERENCE: planes.published,
        "Li 2018, batches kept": lambda: planes.published(batches=batches),
        "ours": planes.ours,
    }
    if importlib.util.find_spec("loss_landscapes"):
        candidates["loss-landscapes"] = planes.peer
    truth = planes.published(batches=batches, dtype=torch.float64)
    errors = {way: np.abs(run() / truth - 1) for way, run in candidates.items()}
    if errors["ours"].max() > ERROR:
        print(f"{name}: ours is off by {errors['ours'].max():.1e}, more than {ERROR:g}")
    ratios, others = compare(candidates, rounds=rounds, reference=REFERENCE, warm=0)
    print(
        f"**{name}**, {planes.objective.space.dim:,} weights, {problem.number} examples, {truth.size} points, ours "
        f"{planes.slice().manifest['machine']['points']}; others took {others:.0%} of the machine.\n"
    )
    print(f"| way | time, of Li 2018: {INTERVAL} | times faster | largest relative error against float64 |")
    print("|---|---|---|---|")
    for way, ratio in ratios.items():
        wrong = int((errors[way] > 1e-3).sum())
        remark = f"; {wrong} of {truth.size} points are others" if wrong else ""
        print(f"| {way} | {ratio} | {1 / ratio.median:.2f} | {errors[way].max():.0e}{remark} |")
    if problem.faster is not None:
        reached = 1 / ratios["ours"].median
        print(f"\nTarget: {problem.faster:g} times faster than Li 2018: {_verdict(reached >= problem.faster)}.")
    print(flush=True)


def _adaptive(problem: Problem, planes: Planes, points: int) -> None:
    objective, grid = planes.over(problem.few), np.linspace(-1, 1, points)
    whole = plane_slice(objective, planes.directions, x=grid, y=grid)
    found = plane_slice(objective, planes.directions, x=grid, y=grid, sampling=Adaptive(tolerance=0.01))
    size = float(np.ptp(whole.losses))
    errors = np.abs(found.losses - whole.losses)
    gain = whole.losses.size / found.num_evaluated
    print(
        f"Adaptive, 1 % of the range, {points}x{points} points over {problem.few} examples: {found.num_evaluated} "
        f"evaluations, {gain:.1f} times fewer. Largest error on the whole grid {errors.max() / size:.2%} of the range, "
        f"said from held-out points {found.interpolation_error / size:.2%}; median relative error "
        f"{np.median(errors / whole.losses):.1%}, largest {np.max(errors / whole.losses):.0%}."
    )
    met = bool(errors.max() <= 0.01 * size) and (problem.fewer is None or gain >= problem.fewer)
    least = "" if problem.fewer is None else f" with {problem.fewer:g} times fewer evaluations"
    print(f"Target: 1 %{least}: {_verdict(met)}.\n", flush=True)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"
