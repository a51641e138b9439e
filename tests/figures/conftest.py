"""Made-up results of every kind, and what a drawn figure shows: its texts and where they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from made_up_sharpness import SHARPNESSES
from matplotlib.figure import Figure
from matplotlib.text import Text

from analyses.results import MEASURES, CurvatureInTraining, RunTable
from figures.style import render
from landscape.answers import (
    Audit,
    DiagonalEstimate,
    Eigenpairs,
    LineSlice,
    NormEstimate,
    PathLosses,
    PlaneSlice,
    SpectralDensity,
    TraceEstimate,
)

LABELS = {
    "one": ["SGD"],
    "six": ["SGD", "SAM", *(f"mSAM, {count} micro-batches" for count in (2, 4, 8, 16))],
    "nine": ["SGD", "SAM", *(f"mSAM, {2**i} micro-batches" for i in range(1, 8))],
    "long": [
        f"mASAM, {count} micro-batches, lr 0.05, momentum 0.95, rho 0.05, weight_decay 0.0005" for count in (8, 16)
    ],
}


def eigenpairs(i: int) -> Eigenpairs:
    values = (20 + 3 * i) / np.arange(1, 6)
    return Eigenpairs(
        eigenvalues=values,
        eigenvectors=np.eye(9)[:, :5],
        residuals=0.02 * values,
        converged=np.array([True, True, True, i % 2 == 0, False]),
        num_products=40,
    )


def trace_estimate(i: int) -> TraceEstimate:
    samples = np.random.default_rng(i).normal(100 + 20 * i, 15, 50)
    return TraceEstimate(estimate=samples.mean(), stderr=samples.std(ddof=1) / np.sqrt(50), samples=samples)


def density(i: int) -> SpectralDensity:
    random = np.random.default_rng(i)
    weights = random.uniform(size=(3, 12)) ** 6
    weights[2, 9:] = 0  # a probe that ended early
    outliers = np.array([[], [24.0, 21.5 - i]][i > 0])  # found separately in all but the first
    return SpectralDensity(
        nodes=np.sort(random.normal(0, 0.1, (3, 12)) + np.linspace(0, 8 - 0.5 * i, 12) ** 2 / 4, axis=1),
        weights=weights / weights.sum(axis=1, keepdims=True) * (1 - len(outliers) / 5000),
        dim=5000,
        outliers=outliers,
    )


def diagonal_estimate(i: int) -> DiagonalEstimate:
    random = np.random.default_rng(i)
    return DiagonalEstimate(estimates=random.gamma(0.3, 1 + i, 200), stderrs=np.full(200, 0.1), num_products=20)


def norm_estimate(i: int) -> NormEstimate:
    samples = np.random.default_rng(i).normal(100 + 20 * i, 15, 50)
    return NormEstimate(estimate=samples.mean() ** 0.5, stderr=0.1, samples=samples, num_products=100)


def audit(i: int) -> Audit:
    """One measure that stays and three that move; of the last, the second has no factor and the third is not known."""
    before = np.array([12.0, 140.0, 0.05, 0.02]) * (1 + i)
    ratios = np.array([[2.6, 2.0, 0.44, 1.7], [1.5, 2.3, 0.5, 2.5], [1.3, -1.5, 1.4, 1e4], [1.0, 1.0, 1.0, 1.9]])
    after = before[:, None] * ratios
    return Audit(
        measures=np.array(["largest Hessian eigenvalue", "Hessian trace", "m-sharpness", "m-sharpness, adaptive"]),
        before=before,
        before_stderrs=0.05 * before,
        after=after,
        after_stderrs=0.05 * np.abs(after),
        change_stderrs=np.where(ratios == 1.4, 0.2, 0.05) * before[:, None],
        slacks=np.full(4, 1e-8),
        rescalings=np.array(["between layers", "between units", "before normalisation", "logits"]),
        layers=np.array(["0 → 2", "0 → 2", "0, 1", "8"]),
        differences=np.full(4, 1e-15),
        tolerances=np.full(4, 4e-10),
        factor=2.0,
        num_examples=64,
        skipped=np.array(["4: the eps of the normalisation changes the outputs by 0.02"]),
    )


def line(i: int) -> LineSlice:
    at = np.linspace(-1, 1, 21)
    return LineSlice(coordinates=at, losses=0.1 + (1 + i) * at**2, length=3.0)


def plane(i: int) -> PlaneSlice:
    x, y = np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)
    losses = 0.1 + (1 + i) * x[None, :] ** 2 + 0.2 * y[:, None] ** 2
    return PlaneSlice(x=x, y=y, losses=losses, lengths=np.array([3.0, 3.0]), cosine=0.0)


def path(i: int) -> PathLosses:
    t = np.linspace(0, 1, 25)
    losses = 0.05 + 0.02 * t + 1.4 * t * (1 - t) / (1 + 3 * i)
    scores = 1 - 0.01 - 0.8 * t * (1 - t) / (1 + 3 * i)
    return PathLosses(
        curve="straight line",
        t=t,
        losses=losses,
        distance=12.0,
        length=12.0,
        num_even=25,
        resolution=1e-4,
        score="accuracy",
        scores=scores,
        held_out_losses=1.2 * losses + 0.05,
        held_out_stderrs=np.full(25, 0.02),
        held_out_rise_stderrs=np.full(25, 0.01),
        held_out_scores=scores - 0.03,
        held_out_score_stderrs=np.full(25, 0.01),
        held_out_fall_stderrs=np.full(25, 0.008),
    )


def course(i: int) -> CurvatureInTraining:
    epochs = np.arange(0, 60, 5)
    values = (6 + i) * (1 - np.exp(-epochs / 15)) + 0.5
    return CurvatureInTraining(
        epochs=epochs,
        largest_eigenvalues=values,
        residuals=0.02 * values,
        converged=epochs != 20,
        num_products=np.full(len(epochs), 9),
        learning_rates=np.full(len(epochs), 0.3),
        thresholds=np.full(len(epochs), 2 / 0.3 + i),
        threshold=f"(2 + 2β)/lr − weight decay {i}: where full-batch descent becomes unstable",
    )


KINDS = {
    **SHARPNESSES,
    "course": course,
    "eigenvalues": eigenpairs,
    "trace": trace_estimate,
    "density": density,
    "diagonal": diagonal_estimate,
    "norm": norm_estimate,
    "audit": audit,
    "line": line,
    "plane": plane,
    "path": path,
}


def run_table(groups: Sequence[str], counts: Sequence[int], *, seeds: int = 2) -> RunTable:
    """``seeds`` runs of each group."""
    n = len(groups) * seeds
    random = np.random.default_rng(0)
    centre = np.array([0.95, 0.03, 0.05, 0.2, 12.0, 140.0, 0.012])
    return RunTable(
        names=np.array([f"run-{i + 1:02d}" for i in range(n)]),
        groups=np.repeat(groups, seeds),
        seeds=np.tile(np.arange(seeds), len(groups)),
        num_microbatches=np.repeat(counts, seeds),
        measures=np.array(list(MEASURES)),
        values=centre * random.uniform(0.8, 1.0, (n, len(centre))),
        errors=centre * random.uniform(0.01, 0.03, (n, len(centre))),
        converged=np.full(n, True),
        accuracy_covariance=np.eye(n) * 1e-4,
        manifest={},
    )


def results_of(kind: str, labels: Sequence[str]) -> dict:
    """Results of a kind by label; for a table, one that is told apart by micro-batches or by its groups."""
    if kind == "micro-batches":
        return {"": run_table(labels, [0, *(2**i for i in range(len(labels) - 1))])}
    if kind == "groups":
        return {"": run_table(labels, [4] * len(labels))}
    return {label: KINDS[kind](i) for i, label in enumerate(labels)}


def drawn_texts(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, np.ndarray]]:
    """Every text of a rendered figure, with its box (left, bottom, right, top) in pixels of the page at 100 dpi."""
    seen = {}
    original = Text.draw

    def draw(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            seen[text] = (text.get_text(), text.get_window_extent(renderer).extents * 100 / figure.dpi)
        return original(text, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        render(figure, "png")
    return list(seen.values())


@pytest.fixture
def make():
    """(kind, labels) -> results by label."""
    return results_of


@pytest.fixture
def table():
    """(groups, counts, seeds) -> a table of runs."""
    return run_table


@pytest.fixture
def texts(monkeypatch):
    """figure -> the texts drawn in it, with their boxes."""
    return lambda figure: drawn_texts(figure, monkeypatch)
