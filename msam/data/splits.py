"""Data sets split into parts, and labels spoiled on request: always the same way for the same settings."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from msam.data.examples import Examples


def stratified(examples: Examples, first: int, *, seed: int) -> tuple[Examples, Examples]:
    """Two disjoint parts, the first of ``first`` examples, with the classes in the same proportions."""
    chosen, rest = stratified_rows(examples.targets, first, seed=seed)
    return examples.taken(chosen), examples.taken(rest)


def stratified_rows(targets: Tensor, first: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of the examples of both parts, each in rising order."""
    from sklearn.model_selection import train_test_split

    chosen, rest = train_test_split(
        np.arange(len(targets)), train_size=first, stratify=targets.numpy(), random_state=seed
    )
    return torch.from_numpy(np.sort(chosen)), torch.from_numpy(np.sort(rest))


def training_and_validation(
    targets: Tensor, *, train_examples: int | None, validation_examples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The numbers of the examples to train on, and of those to validate with, both stratified.

    Validation examples are taken first and in one way: they are the same whatever is trained on, and for every seed.

    Args:
        targets: the classes of all training examples, ``(n,)``.
        train_examples: how many to train on; None for all that are left.
        validation_examples: how many to set aside.
        seed: of the subset that is trained on.

    Raises:
        ValueError: if a part cannot have an example of each class.
    """
    rows = torch.arange(len(targets), device="cpu")
    validation, classes = rows[:0], _classes(targets)
    if validation_examples:
        _require_part("validation_examples", validation_examples, targets, classes)
        validation, rows = stratified_rows(targets, validation_examples, seed=0)
        _require_classes(f"validation_examples {validation_examples}", targets, validation, rows)
    if train_examples is not None and train_examples != len(rows):
        _require_part("train_examples", train_examples, targets[rows], classes)
        chosen, _ = stratified_rows(targets[rows], train_examples, seed=seed)
        _require_classes(f"train_examples {train_examples}", targets[rows], chosen)
        rows = rows[chosen]
    return rows, validation


def rows_to_test_on(targets: Tensor, fraction: float) -> Tensor:
    """The numbers of the examples to test on, stratified and always the same, where there are no others.

    Raises:
        ValueError: if either part cannot have an example of each class.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1; got {fraction}")
    number, classes = round(fraction * len(targets)), _classes(targets)
    if not classes <= number <= len(targets) - classes or _fewest(targets) < 2:
        raise ValueError(
            f"test_fraction {fraction} of {len(targets)} images is {number}; the images to test on and the others must "
            f"each have one of all {classes} classes, at least"
        )
    chosen, rest = stratified_rows(targets, number, seed=0)
    _require_classes(f"test_fraction {fraction}", targets, chosen, rest)
    return chosen


def require_noise(fraction: float, seed: int) -> None:
    """Settings of :func:`with_label_noise` and of subsets must be in their ranges.

    Raises:
        ValueError: if one is not.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"label_noise must be between 0 and 1; got {fraction}")
    require_seed(seed)


def require_seed(seed: int) -> None:
    """A ``data_seed`` must be one that data can be drawn by.

    Raises:
        ValueError: if it is negative or too large.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"data_seed must be between 0 and 2**32 - 1; got {seed}")


def _require_part(name: str, number: int, targets: Tensor, classes: int) -> None:
    """A stratified part, and what is left, must have one example of each class."""
    least, most = classes, len(targets) - classes
    if _fewest(targets) < 2:
        raise ValueError(f"{name} must be left out: there is a class of one example, which cannot be split")
    if not least <= number <= most:
        everything = f", or {len(targets)}" if name == "train_examples" else ""
        raise ValueError(f"{name} must be between {least} and {most}{everything}; got {number}")


def _require_classes(setting: str, targets: Tensor, chosen: Tensor, rest: Tensor | None = None) -> None:
    """Of a rare class a proportional part may have none; where there is no rest, it is of no matter."""
    least = math.ceil(len(targets) / _fewest(targets))  # of so many every class has one
    advice = {"has": f"take {least} or more", "leaves": f"take {len(targets) - least} or fewer"}
    counts = targets.bincount()
    for verb, part in (("has", chosen), ("leaves", rest)):
        if part is None:
            continue
        lacking = ((counts > 0) & (targets[part].bincount(minlength=len(counts)) == 0)).nonzero()
        if len(lacking):
            rare = int(lacking[0])
            raise ValueError(
                f"{setting} {verb} no example of class {rare}, which is {int(counts[rare])} of {len(targets)}; "
                f"{advice[verb]}"
            )


def _classes(targets: Tensor) -> int:
    return int((targets.bincount() > 0).sum())


def _fewest(targets: Tensor) -> int:
    """Examples of the class that has the fewest."""
    counts = targets.bincount()
    return int(counts[counts > 0].min())


def at_random(examples: Examples, first: int, *, seed: int) -> tuple[Examples, Examples]:
    """Two disjoint parts, the first of ``first`` examples, whatever their targets are."""
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen, rest = np.sort(order[:first]), np.sort(order[first:])
    return examples.taken(torch.as_tensor(chosen)), examples.taken(torch.as_tensor(rest))


def with_label_noise(examples: Examples, fraction: float, *, classes: int, seed: int) -> Examples:
    """The same inputs, a fraction of the labels drawn uniformly from all classes (the true one included)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(examples), generator=generator, device="cpu")[: round(fraction * len(examples))]
    targets = examples.targets.clone()
    targets[chosen] = torch.randint(0, classes, (len(chosen),), generator=generator, device="cpu")
    return Examples(examples.inputs, targets)
