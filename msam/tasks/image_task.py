"""A task over decoded images: its splits, how they are read, and the sentence that says what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.manifest import hash_of_settings, hash_of_tensor
from msam.data import augmentation_of
from msam.data.cache import Decoded
from msam.data.examples import Examples
from msam.data.reading import NormalizedPixels
from msam.data.splits import require_noise, training_and_validation, with_label_noise
from msam.tasks.task import Task

Build = Callable[..., Callable[[], nn.Module]]  # of channels, size and classes


@dataclass(frozen=True)
class Subset:
    """What of the training images is trained on, and what is done to their labels.

    Attributes:
        train_examples: size of the stratified subset, None for all that are left.
        validation_examples: stratified, set aside before.
        label_noise: fraction of the training labels drawn at random.
        data_seed: of the subset and of the noise.
    """

    train_examples: int | None
    validation_examples: int
    label_noise: float
    data_seed: int

    def __post_init__(self) -> None:
        require_noise(self.label_noise, self.data_seed)


@dataclass(frozen=True)
class Images:
    """Decoded images of 0 to 255, and which of them are for what.

    Attributes:
        name: of the task.
        title: what they are, for a person.
        decoded: ``train.images`` and ``train.labels``, and those of ``test`` and ``validation`` where there are any.
        reading: how a model takes them.
        tested: the numbers of those of ``train`` that are tested on, where there are no others.
    """

    name: str
    title: str
    decoded: Decoded
    reading: NormalizedPixels
    tested: Tensor | None = None

    def task(self, build: Build, subset: Subset, *, augment: str) -> Task:
        """The task of telling their classes.

        Raises:
            ValueError: if the subset cannot be taken, there would be two validation sets, or the model does not fit.
        """
        labels, classes = self.decoded.tensors["train.labels"], len(self.decoded.facts["classes"])
        pool = rows_without(len(labels), self.tested)
        chosen, aside = training_and_validation(
            labels[pool],
            train_examples=subset.train_examples,
            validation_examples=subset.validation_examples,
            seed=subset.data_seed,
        )
        clean = self._taken("train", pool[chosen])
        parts = {"training": with_label_noise(clean, subset.label_noise, classes=classes, seed=subset.data_seed)}
        if len(aside):
            parts["validation"] = self._taken("train", pool[aside])
        if "validation.labels" in self.decoded.tensors:
            if len(aside):
                raise ValueError(
                    f"the files have a validation set of their own; leave out validation_examples {len(aside)}"
                )
            parts["validation"] = self._taken("validation")
        parts["test"] = self._taken("test") if self.tested is None else self._taken("train", self.tested)
        rows = {"training": pool[chosen], "validation": pool[aside], "test": self.tested}
        named = [f"{len(part)} {name} ({self._hash(part, rows[name])})" for name, part in parts.items()]
        noise = f", {subset.label_noise:.0%} of the training labels drawn at random" if subset.label_noise else ""
        _, channels, _, side = parts["training"].inputs.shape
        return Task(
            self.name,
            build(channels=channels, size=side, classes=classes),
            functional.cross_entropy,
            parts["training"],
            parts["test"],
            f"{self.title}: {', '.join(named[:-1])} and {named[-1]} images, stratified{noise}",
            forward=self.reading,
            validation=parts.get("validation"),
            augment=augmentation_of(augment, size=side, classes=classes),
        )

    def _taken(self, split: str, rows: Tensor | None = None) -> Examples:
        """The examples of some rows; where these are all, as they lie in the file."""
        tensors = self.decoded.tensors
        every = Examples(tensors[f"{split}.images"], tensors[f"{split}.labels"])
        return every if rows is None or len(rows) == len(every) else every.taken(rows)

    def _hash(self, part: Examples, rows: Tensor | None) -> str:
        """What the examples are, by what all of them are and which they are; pixels are hashed once, in the cache."""
        which = "all" if rows is None else hash_of_tensor(rows)
        return hash_of_settings({"of": self.decoded.content, "rows": which, "as": hash_of_tensor(part.targets)})[:8]


def rows_without(number: int, left_out: Tensor | None) -> Tensor:
    """The numbers from 0 on, but for some, in rising order.

    >>> rows_without(4, torch.tensor([1])).tolist()
    [0, 2, 3]
    """
    kept = torch.ones(number, dtype=torch.bool)
    if left_out is not None:
        kept[left_out] = False
    return kept.nonzero().flatten()
