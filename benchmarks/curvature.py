"""The largest eigenvalues of a Hessian over 10,000 images, at equal verified accuracy, against three other tools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.harness import compare
from benchmarks.machine import machine
from benchmarks.spectra import NETS, Careless, Curvlinops, Eigenthings, FromPart, Ours, Problem, PyHessian, Tool

ACCURACY = 1e-3  # largest relative error of an eigenvalue
TOOLS: tuple[Callable[[], Tool], ...] = (Ours, Careless, FromPart, PyHessian, Curvlinops, Eigenthings)


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each network and number of eigenvalues, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks curvature", description=__doc__)
    parser.add_argument("--nets", default="MLP", help=f"which of {', '.join(NETS)}, with commas; the others take hours")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--pairs", default="1,5,10", help="numbers of eigenvalues, with commas")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each tool")
    options = parser.parse_args(arguments)
    print(f"{machine()}, float32. For each tool the loosest setting of its own with errors below {ACCURACY:g}.\n")
    tools = [build() for build in TOOLS]
    for tool in (tool for tool in tools if not tool.is_there):
        print(f"{tool.name} is not installed.\n")
    numbers = sorted(int(k) for k in options.pairs.split(","))
    for name in options.nets.split(","):
        problem = Problem.of(name, options.examples)
        truth = problem.truth(max(numbers))
        print(f"**{name}**, {problem.objective.space.dim:,} weights, {options.examples:,} images")
        print(f"largest eigenvalues {', '.join(f'{value:.3g}' for value in truth)}\n")
        settings = {tool.name: chosen(tool, problem, numbers, truth) for tool in tools if tool.is_there}
        for k in numbers:
            _table([tool for tool in tools if tool.is_there], problem, k, settings, truth, options.rounds)


def chosen(tool: Tool, problem: Problem, numbers: Sequence[int], truth: np.ndarray) -> dict[int, float]:  # type: ignore[type-arg]
    """The loosest setting for each number of eigenvalues.

    Raises:
        RuntimeError: if none reaches the accuracy.
    """
    found: dict[int, float] = {}
    if isinstance(tool, Curvlinops | Eigenthings):
        return {k: tool.tune(problem, k, lambda values, k=k: error(values, truth[:k]) <= ACCURACY) for k in numbers}  # type: ignore[misc]
    for setting in tool.settings(max(numbers)):
        if isinstance(tool, PyHessian):  # one pair after the other: a run for many contains those for fewer
            values, _ = tool.run(problem, max(numbers), setting)
            values = {k: np.sort(values)[::-1][:k] for k in numbers}
        else:
            values = {k: tool.run(problem, k, setting)[0] for k in numbers if k not in found}
        print(
            f"  {tool.name} at {setting:g}: {', '.join(f'{error(v, truth[:k]):.0e}' for k, v in values.items())}",
            file=sys.stderr,
        )
        for k in numbers:
            if k not in found and error(values[k], truth[:k]) <= ACCURACY:
                found[k] = setting
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
) -> None:
    last: dict[str, tuple[np.ndarray, float]] = {}  # type: ignore[type-arg]

    def runner(tool: Tool) -> Callable[[], None]:
        def run() -> None:
            last[tool.name] = tool.run(problem, k, settings[tool.name][k])

        return run

    ratios, others = compare({tool.name: runner(tool) for tool in tools}, rounds=rounds, reference=Ours.name, warm=0)
    print(f"top {k}; other processes took {others:.0%} of the machine\n")
    print("| tool | setting | products | largest error | time, of this package's |")
    print("|---|---|---|---|---|")
    for name, ratio in ratios.items():
        values, products = last[name]
        spread = f" ({ratio.least:.2f} to {ratio.most:.2f})" if rounds > 1 else ""
        print(
            f"| {name} | {settings[name][k]:g} | {products:.4g} | {error(values, truth[:k]):.0e} | "
            f"{ratio.median:.2f}{spread} |",
            flush=True,
        )
    print()
