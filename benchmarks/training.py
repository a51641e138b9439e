"""The cost of an mSAM step in steps of SGD, and its memory beside that of SAM."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.harness import compare
from benchmarks.steps import BATCH, PROBLEMS, Problem, peak_memory, require_equal, stepper

SMALL = 32  # MiB, below which ratios of memory say nothing
ALL_AT_ONCE = ["Layerwise", "Vectorised"]


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    parser.add_argument("--device", default="cpu", help="where the networks are")
    parser.add_argument("--nets", default=",".join(PROBLEMS), help="which of them, with commas between")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each candidate")
    options = parser.parse_args(arguments)
    print(f"{_machine(options.device)}\n")
    for name in options.nets.split(","):
        _table(name, PROBLEMS[name], options.device, options.rounds)


def _table(name: str, problem: Problem, device: str, rounds: int) -> None:
    weights = sum(p.numel() for p in problem.build().parameters())
    for number in problem.shards:
        require_equal(problem, ALL_AT_ONCE, number, device)
    print(f"**{name}**, {weights:,} weights, {BATCH} images a step; all executions agree in double precision.\n")
    print(
        "| micro-batches | way | cost, SGD steps: median (least to most) | faster than one by one | memory, of SAM's |"
    )
    print("|---|---|---|---|---|", flush=True)
    of_sam = peak_memory(name, "SAM, two steps", 1, device)
    shares = []
    for number in problem.shards:
        ways = ["OneByOne", *ALL_AT_ONCE] if number > 1 else ["SAM, two steps", "OneByOne", "Layerwise"]
        candidates = {way: stepper(problem, way, number, device) for way in ["SGD", *ways]}
        ratios, others = compare(candidates, rounds=rounds, reference="SGD")
        shares.append(others)
        for way in ways:
            cost, gain = ratios[way], ratios["OneByOne"].median / ratios[way].median
            memory = peak_memory(name, way, number, device)
            relative = f"{memory:.0f} MiB" if of_sam < SMALL else f"{memory / of_sam:.2f}"
            spread = f"{cost.median:.2f} ({cost.least:.2f} to {cost.most:.2f})"
            print(f"| {number} | {way} | {spread} | {gain:.1f} | {relative} |", flush=True)
    print(
        f"\nOther processes took {max(shares):.0%} of the machine at the most. SAM takes {of_sam:.0f} MiB.\n",
        flush=True,
    )


def _machine(device: str) -> str:
    """Where and when this is measured."""
    processor = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line for line in about.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].split(":")[1].strip() if lines else processor
    if device != "cpu":
        processor = f"{torch.get_device_module(device).get_device_name()}, beside {processor}"
    return (
        f"{datetime.date.today().isoformat()}, {processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, float32."
    )
