"""The cost of an mSAM step in steps of SGD, and its memory beside that of SAM."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.harness import INTERVAL, compare
from benchmarks.machine import machine
from benchmarks.steps import BATCH, PROBLEMS, Problem, peak_memory, require_equal, stepper

ALL_AT_ONCE = ["Layerwise", "Vectorised"]
SAM = ["SAM, two steps", "SAM, pytorch_optimizer"]
MEMORY = 1.5  # of SAM's, at the most


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    parser.add_argument("--device", default="cpu", help="where the networks are")
    parser.add_argument("--nets", default=",".join(PROBLEMS), help="which of them, with commas between")
    parser.add_argument("--rounds", type=int, help="measurements of each candidate, more or less than as many as fit")
    options = parser.parse_args(arguments)
    print(f"{machine(options.device)}, float32.\n")
    for name in options.nets.split(","):
        _table(name, PROBLEMS[name], options.device, options.rounds or PROBLEMS[name].rounds)


def _table(name: str, problem: Problem, device: str, rounds: int) -> None:
    weights = sum(p.numel() for p in problem.build().parameters())
    for number in problem.targets:
        require_equal(problem, ALL_AT_ONCE, number, device)
    print(f"**{name}**, {weights:,} weights, {BATCH} images a step; all executions agree in double precision.\n")
    print(
        f"| micro-batches | way | cost, SGD steps: {INTERVAL} | faster than one by one | memory, of SAM's | targets |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    of_sam = peak_memory(problem, SAM[0], 1, device)
    shares = []
    for number in problem.targets:
        ways = ["OneByOne", *ALL_AT_ONCE] if number > 1 else [*SAM, "OneByOne", "Layerwise"]
        candidates = {way: stepper(problem, way, number, device) for way in ["SGD", *ways]}
        ratios, others = compare(candidates, rounds=rounds, reference="SGD")
        del candidates
        shares.append(others)
        costs = {way: ratios[way].median for way in ways}
        for way in ways:
            cost, gain = ratios[way], costs["OneByOne"] / costs[way]
            memory = peak_memory(problem, way, number, device) / of_sam
            verdict = "" if way in SAM else verdicts(problem, number, way, costs, memory)
            print(f"| {number} | {way} | {cost} | {gain:.1f} | {memory:.2f} | {verdict} |", flush=True)
    print(
        f"\nOther processes took {max(shares):.0%} of the machine at the most. SAM takes {of_sam:.1f} MiB.\n",
        flush=True,
    )


def verdicts(problem: Problem, number: int, way: str, costs: Mapping[str, float], memory: float) -> str:
    """Which targets a way of taking a step meets, and which not.

    Costs are of interest of the quickest way, and of ``OneByOne`` where there is one micro-batch; memory of all.

    Args:
        problem: the network, with its targets.
        number: of micro-batches.
        way: the way.
        costs: of all ways, medians in steps of SGD.
        memory: of this way, in that of SAM.
    """
    own = [other for other in costs if other not in SAM]
    most, gain = problem.targets[number], problem.gains.get(number)
    found = {f"memory ≤ {MEMORY}": memory <= MEMORY}
    if way == ("OneByOne" if number == 1 else min(own, key=lambda other: costs[other])):
        if most is not None:
            found[f"cost ≤ {most}"] = round(costs[way], 2) <= most
        if gain is not None:
            found[f"≥ {gain:g} times faster"] = costs["OneByOne"] >= gain * costs[way]
        for other in SAM:
            if other in costs:
                found[f"≤ {other}"] = round(costs[way], 2) <= round(costs[other], 2)
    met, missed = ([target for target, is_met in found.items() if is_met is wanted] for wanted in (True, False))
    return "; ".join(f"{word}: {', '.join(some)}" for word, some in (("met", met), ("missed", missed)) if some)
