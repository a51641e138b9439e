"""One product with the Hessian, by every way, and what estimators of traces take in its place, in gradients."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import nets
from benchmarks.harness import INTERVAL, compare
from benchmarks.machine import machine
from landscape import CentralDifferences, ForwardOverReverse, HessianOperator, KeptGraphs, Objective, RebuiltGraphs
from landscape.squares import ExampleSquares
from landscape.steps import Steps
from landscape.ways import Products

WAYS: dict[str, Callable[[], Products]] = {
    "KeptGraphs": KeptGraphs,
    "RebuiltGraphs": RebuiltGraphs,
    "ForwardOverReverse": ForwardOverReverse,
    "CentralDifferences": CentralDifferences,
}
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # and the number of examples
    "MLP": (nets.mlp, (1, 8, 8), 2048),
    "ViT": (nets.vit, (3, 32, 32), 64),
    "ResNet-20": (nets.resnet20, (3, 32, 32), 64),
}
TARGET = 2.8  # gradients
PROBE, PASSES = "PerExample, a probe", "ExactGaussNewton, a pass"
OUTPUTS = 10


def objective_of(name: str, way: Products, dtype: torch.dtype = torch.float32) -> Objective:
    """The same weights and data every time."""
    build, image, number = NETS[name]
    torch.manual_seed(0)
    images, labels = torch.randn(number, *image), torch.randint(0, 10, (number,))
    return Objective(build().eval().to(dtype), functional.cross_entropy, [(images.to(dtype), labels)], products=way)


def error(name: str, way: str) -> float:
    """Of a product in single precision, relative to one in double precision by another way; infinite when refused."""
    single = HessianOperator(objective_of(name, WAYS[way]()))
    double = HessianOperator(objective_of(name, RebuiltGraphs(), torch.float64))
    v = torch.randn(single.dim, generator=torch.Generator().manual_seed(1))
    truth = double.apply(v.double())
    try:
        return float((single.apply(v).double() - truth).norm() / truth.norm())
    except ValueError:
        return math.inf


def layered(objective: Objective) -> dict[str, Callable[[], Tensor]]:
    """A probe of ``PerExample``, and all passes of ``ExactGaussNewton``, one for each output but one."""
    steps, squares = Steps(HessianOperator(objective)), ExampleSquares(objective)
    return {PROBE: lambda: steps.curvatures(0, 1), PASSES: lambda: squares.diagonal()[0]}


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks products", description=__doc__)
    parser.add_argument("--nets", default=",".join(NETS), help="which networks, with commas")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    print(f"{machine()}, float32.\n")
    for name in options.nets.split(","):
        candidates: dict[str, Callable[[], object]] = {}
        errors = {way: error(name, way) for way in WAYS}
        for way in (way for way in WAYS if errors[way] == math.inf):
            print(f"{name}: products by {way} are refused.")
        for way, build in ((way, build) for way, build in WAYS.items() if errors[way] < math.inf):
            hessian = HessianOperator(objective_of(name, build()))
            v = torch.randn(hessian.dim, generator=torch.Generator().manual_seed(1))
            hessian.apply(v)  # certified, and its graphs built
            candidates[way] = lambda hessian=hessian, v=v: hessian.apply(v)
            if way == "KeptGraphs":
                objective = hessian.objective
                V = torch.randn(hessian.dim, 5, generator=torch.Generator().manual_seed(1))
            if way == "RebuiltGraphs":
                candidates["RebuiltGraphs, 5 columns, each"] = lambda hessian=hessian, V=V: hessian.apply(V)
        single, double = (layered(objective_of(name, KeptGraphs(), dtype)) for dtype in (torch.float32, torch.float64))
        for way, compute in single.items():
            truth = double[way]().double()
            errors[way] = float((compute().double() - truth).norm() / truth.norm())
        candidates |= single
        candidates["gradient"] = lambda objective=objective: objective.gradient(objective.weights)
        ratios, others = compare(candidates, rounds=options.rounds, reference="gradient")
        print(
            f"**{name}**, {objective.space.dim:,} weights, {NETS[name][2]} examples in chunks of "
            f"{objective.work.chunk_size}; others took {others:.0%} of the machine.\n"
        )
        print(f"| way | cost, gradients: {INTERVAL} | error against float64 |\n|---|---|---|")
        for way, ratio in ratios.items():
            share = OUTPUTS - 1 if way == PASSES else 5 if "columns" in way else 1
            if way != "gradient":
                print(f"| {way} | {ratio / share} | {errors.get(way, errors['RebuiltGraphs']):.0e} |")
        print()
