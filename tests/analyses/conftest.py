"""A tiny sweep, trained once, and the questions put to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.comparison import compare
from analyses.protocol import Protocol
from analyses.results import MEASURES, RunTable
from analyses.subject import Subject
from msam import Run, TrainConfig, train
from msam.sweep import Sweep, grid

BASE = TrainConfig(settings={"train_examples": 60, "hidden": 8}, epochs=2, batch_size=25)  # the last batch has 10
AXES = {"perturbation": ["none", "sam"], "num_microbatches": [1, 2], "seed": [0, 1]}


def trained(path: Path, config: TrainConfig) -> Run:
    """A finished run."""
    return train(config.load_task(), config, Run.create(path, config))


def made_up_table(
    groups: dict[str, dict[str, list[float]]],
    *,
    converged: bool = True,
    errors: float = 0.01,
    counts: bool = False,
    correlation: float | None = 0.5,
) -> RunTable:
    """A run for each value of each group; measures that are not named are one half.

    ``correlation`` is that of the test accuracies of any two runs; None where their covariance was not kept.
    """
    names, labels, seeds, numbers, rows = [], [], [], [], []
    for number, (group, given) in enumerate(groups.items()):
        runs = len(next(iter(given.values())))
        for seed in range(runs):
            names.append(f"run-{len(names) + 1:02d}")
            labels.append(group)
            seeds.append(seed)
            numbers.append(number if counts else 1)
            rows.append([given.get(measure, [0.5] * runs)[seed] for measure in MEASURES])
    return RunTable(
        names=np.array(names),
        groups=np.array(labels),
        seeds=np.array(seeds),
        num_microbatches=np.array(numbers),
        measures=np.array(list(MEASURES)),
        values=np.array(rows),
        errors=np.full((len(rows), len(MEASURES)), errors),
        converged=np.full(len(rows), converged),
        accuracy_covariance=None
        if correlation is None
        else errors**2 * (correlation + (1 - correlation) * np.eye(len(rows))),
        manifest={},
    )


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return Protocol(
        eigenvalues=2,
        trace_probes=6,
        density_steps=8,
        density_probes=2,
        microbatch_size=16,
        line_points=5,
        plane_points=4,
        draws=3,
    )


@pytest.fixture(scope="session")
def sweep(tmp_path_factory) -> Sweep:
    """Six runs: no perturbation, SAM, and mSAM with two micro-batches, with two seeds each."""
    torch.set_num_threads(1)
    made = Sweep.create(tmp_path_factory.mktemp("sweep"), grid(BASE, AXES))
    for run in made.prepared():
        train(run.config.load_task(), run.config, run)
    return made


@pytest.fixture(scope="session")
def subjects(sweep, protocol) -> list[Subject]:
    return [Subject(run, protocol) for run in sweep.finished()]


@pytest.fixture(scope="session")
def table(subjects) -> RunTable:
    return compare(subjects)


@pytest.fixture
def base() -> TrainConfig:
    """The settings of the sweep."""
    return BASE


@pytest.fixture
def train_run():
    """(path, config) -> a finished run."""
    return trained


@pytest.fixture
def make_table():
    """{group: {measure: one value per run}} -> a table."""
    return made_up_table
