"""The task in which signal and noise can be told apart."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from msam.data.patches import signal_and_noise
from msam.data.splits import require_seed
from msam.models.patches import PatchNet
from msam.tasks.task import Task


def patches(
    *,
    train_examples: int = 20,
    test_examples: int = 1000,
    dim: int = 1000,
    patches: int = 2,
    signal: float = 5.0,
    noise: float = 1.0,
    label_noise: float = 0.0,
    filters: int = 10,
    deviation: float = 0.01,
    data_seed: int = 0,
) -> Task:
    """Signal patches among noise, drawn (Chen et al. 2023): probes tell whether a network learns one or the other.

    A run's ``metrics.csv`` has ``signal_alignment`` and ``noise_alignment`` after every epoch; see
    ``msam.data.SignalAndNoise``.

    Args:
        train_examples: n.
        test_examples: new examples, with true labels.
        dim: d, entries of a patch.
        patches: P, of which one has the signal.
        signal: ‖μ‖.
        noise: σ, deviation of each entry of the noise.
        label_noise: the chance that a training label is flipped.
        filters: m, for each of the two classes.
        deviation: σ₀ of the initial weights.
        data_seed: of signal, noise and labels.
    """
    if not 0 < signal < math.inf or dim < 1:
        raise ValueError(f"signal and dim must be positive, finite numbers; got {signal} and {dim}")
    require_seed(data_seed)
    PatchNet(1, filters=filters, deviation=deviation)  # which refuses what makes no sense
    direction = torch.randn(dim, generator=torch.Generator().manual_seed(data_seed), dtype=torch.float64)
    mu = (signal * direction / direction.norm()).float()
    train = signal_and_noise(
        train_examples, signal=mu, noise=noise, patches=patches, label_noise=label_noise, seed=3 * data_seed + 1
    )
    test = signal_and_noise(test_examples, signal=mu, noise=noise, patches=patches, seed=3 * data_seed + 2)

    def probe(model: nn.Module) -> dict[str, float]:
        return train.alignments(next(model.parameters()).view(2, filters, dim).cpu())

    about = (
        f"{patches} patches of {dim} entries, a signal of length {signal:g} in one, noise of deviation {noise:g} in "
        f"the others (Chen et al. 2023): {train_examples} training and {test_examples} test examples"
        + (f", {label_noise:.0%} of the training labels flipped" if label_noise else "")
    )
    return Task(
        "patches",
        lambda: PatchNet(dim, filters=filters, deviation=deviation),
        functional.cross_entropy,
        train.examples,
        test.examples,
        about,
        probe=probe,
    )
