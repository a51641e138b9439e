"""The largest eigenvalues of a Hessian over 10,000 images, at equal verified accuracy, against three other tools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.harness import compare
from benchmarks.machine import machine
from benchmarks.spectra import NETS, Careless, Curvlinops, Eigenthings, FromPart, Good, Ours, Problem, PyHessian, Tool

ACCURACY = 1e-3  # largest relative error of an eigenvalue
TOOLS: tuple[Callable[[], Tool], ...] = (Ours, Careless, FromPart, PyHessian, Curvlinops, Eigenthings)


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each network and number of eigenvalues, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks curvature", description=__doc__)
    parser.add_argument("--nets", default="MLP", help=f"which of {', '.join(NETS)}, with commas; the others take hours")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--pairs", default="1,5,10", help="numbers of eigenvalues, with commas")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each tool, with the seeds in turn")
    parser.add_argument("--seeds", type=int, default=3, help="random starts from each of which the accuracy is reached")
    options = parser.parse_args(arguments)
    print(f"{machine()}, float32.")
    print(f"For each tool the loosest setting of its own with errors below {ACCURACY:g} from {options.seeds} starts.\n")
    built = [build() for build in TOOLS]
    tools = [tool for tool in built if tool.is_there]
    for tool in (tool for tool in built if not tool.is_there):
        print(f"{tool.name} is not installed.\n")
    numbers = sorted(int(k) for k in options.pairs.split(","))
    for name in options.nets.split(","):
        problem = Problem.of(name, options.examples)
        truth = problem.truth(max(numbers))
        print(f"**{name}**, {problem.objective.space.dim:,} weights, {options.examples:,} images")
        print(f"largest eigenvalues {', '.join(f'{value:.3g}' for value in truth)}\n")
        settings = {tool.name: chosen(tool, problem, numbers, truth, options.seeds) for tool in tools}
        for k in numbers:
            _table(tools, problem, k, settings, truth, options.rounds, options.seeds)


def chosen(
    tool: Tool,
    problem: Problem,
    numbers: Sequence[int],
    truth: np.ndarray,  # type: ignore[type-arg]
    seeds: int,
) -> dict[int, float]:
    """The loosest setting for each number of eigenvalues that reaches the accuracy from every one of the random starts.

    Raises:
        RuntimeError: if none reaches the accuracy.
    """
    found: dict[int, float] = {}
    if isinstance(tool, Curvlinops | Eigenthings):

        def good(k: int) -> Good:
            return lambda values: all(error(values(seed), truth[:k]) <= ACCURACY for seed in range(seeds))

        return {k: tool.tune(problem, k, good(k)) for k in numbers}
    for setting in tool.settings(max(numbers)):
        open_ones = [k for k in numbers if k not in found]
        errors = dict.fromkeys(open_ones, 0.0)
        for seed in range(seeds):
            # PyHessian finds one pair after the other: a run for many contains those for fewer
            last = tool.run(problem, max(open_ones), setting, seed)[0] if isinstance(tool, PyHessian) else None
            for k in open_ones:
                values = tool.run(problem, k, setting, seed)[0] if last is None else last[:k]
                errors[k] = max(errors[k], error(values, truth[:k]))
        words = ", ".join(f"{value:.0e}" for value in errors.values())
        print(f"  {tool.name} at {setting:g}: {words}", file=sys.stderr)
        found |= {k: setting for k in open_ones if errors[k] <= ACCURACY}
        if len(found) == len(numbers):
            return found
    raise RuntimeError(f"{tool.name} reached the accuracy with none of its settings")


def error(values: np.ndarray, truth: np.ndarray) -> float:  # type: ignore[type-arg]
    """The largest relative error."""
    return float(np.abs(values / truth - 1).max())


def _table(
    tools: Sequence[Tool],
    problem: Problem,
    k: int,
    settings: dict[str, dict[int, float]],
    truth: np.ndarray,  # type: ignore[type-arg]
    rounds: int,
    seeds: int,
) -> None:
    errors: dict[str, float] = {}
    products: dict[str, list[float]] = {tool.name: [] for tool in tools}

    def runner(tool: Tool) -> Callable[[], None]:
        def run() -> None:
            values, number = tool.run(problem, k, settings[tool.name][k], len(products[tool.name]) % seeds)
            products[tool.name].append(number)
            errors[tool.name] = max(errors.get(tool.name, 0.0), error(values, truth[:k]))

        return run

    ratios, others = compare({tool.name: runner(tool) for tool in tools}, rounds=rounds, reference=Ours.name, warm=0)
    print(f"top {k}; other processes took {others:.0%} of the machine\n")
    print("| tool | setting | products | largest error | time, of this package's |")
    print("|---|---|---|---|---|")
    for name, ratio in ratios.items():
        print(
            f"| {name} | {settings[name][k]:g} | {np.mean(products[name]):.4g} | {errors[name]:.0e} | "
            f"{ratio if rounds > 1 else round(ratio.median, 2)} |",
            flush=True,
        )
    print()
