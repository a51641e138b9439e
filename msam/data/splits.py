"""Data sets split into parts, and labels spoiled on request: always the same way for the same settings."""

from __future__ import annotations

import numpy as np
import torch

from msam.data.examples import Examples


def stratified(examples: Examples, first: int, *, seed: int) -> tuple[Examples, Examples]:
    """Two disjoint parts, the first of ``first`` examples, with the classes in the same proportions."""
    from sklearn.model_selection import train_test_split

    chosen, rest = train_test_split(
        np.arange(len(examples)), train_size=first, stratify=examples.targets.numpy(), random_state=seed
    )
    return examples.taken(torch.as_tensor(np.sort(chosen))), examples.taken(torch.as_tensor(np.sort(rest)))


def at_random(examples: Examples, first: int, *, seed: int) -> tuple[Examples, Examples]:
    """Two disjoint parts, the first of ``first`` examples, whatever their targets are."""
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen, rest = np.sort(order[:first]), np.sort(order[first:])
    return examples.taken(torch.as_tensor(chosen)), examples.taken(torch.as_tensor(rest))


def with_label_noise(examples: Examples, fraction: float, *, classes: int, seed: int) -> Examples:
    """The same inputs, a fraction of the labels drawn uniformly from all classes (the true one included)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(examples), generator=generator)[: round(fraction * len(examples))]
    targets = examples.targets.clone()
    targets[chosen] = torch.randint(0, classes, (len(chosen),), generator=generator)
    return Examples(examples.inputs, targets)
