"""What batch norm normalises by along a path: an explicit choice, recorded with every result."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import num_examples
from landscape.objective import Objective
from landscape.precision import doubled
from landscape.terms import Definition

Buffers = Mapping[str, Tensor]


class Statistics(ABC):
    """The running statistics of batch-norm layers at the points of a path.

    Attributes:
        least: examples of a mini-batch that a path is trained on.
    """

    least: ClassVar[int] = 1

    @abstractmethod
    def at(self, w: Tensor, t: float, ends: tuple[Buffers, Buffers]) -> Buffers:
        """The statistics of the weights w at t, by the names of the buffers.

        Args:
            w: weights, ``(dim,)``.
            t: where they are on the path, 0 to 1.
            ends: the running statistics of the two checkpoints.
        """

    @abstractmethod
    def in_training(self, definition: Definition, t: float, ends: tuple[Buffers, Buffers]) -> Definition:
        """How the loss of a mini-batch at t is computed where a path is trained."""

    @abstractmethod
    def words(self) -> str:
        """What a manifest says of it."""


class Frozen(Statistics):
    """(1 − t) s(a) + t s(b): what the checkpoints came with, interpolated like weights, and nothing is recomputed.

    At the ends each model is the one that was trained. Between them, statistics are in general not those of the
    activations there, which raises a barrier of their own: see Jordan et al. 2023, arXiv 2211.08403.
    """

    def at(self, w: Tensor, t: float, ends: tuple[Buffers, Buffers]) -> Buffers:
        """The interpolated statistics, whatever the weights."""
        del w
        return self._between(t, ends)

    def in_training(self, definition: Definition, t: float, ends: tuple[Buffers, Buffers]) -> Definition:
        """Normalised by the interpolated statistics."""
        return definition.with_buffers(self._between(t, ends))

    def words(self) -> str:
        """What a manifest says of it."""
        return "running statistics of the two checkpoints, interpolated linearly"

    def _between(self, t: float, ends: tuple[Buffers, Buffers]) -> Buffers:
        return {name: torch.lerp(first, ends[1][name], t) for name, first in ends[0].items()}


class Recomputed(Statistics):
    """Reset at every point, the ends included, and averaged over one pass through the training data.

    Izmailov et al. 2018 (arXiv 1803.05407) and Garipov et al. 2018 (arXiv 1802.10026): see :func:`recomputed`. Where a
    path is trained, mini-batches are normalised by their own statistics, and gradients flow through these.

    Args:
        training: an objective of this model over the training data, in the batches to average over.
    """

    least = 2  # one alone has no variance

    def __init__(self, training: Objective) -> None:
        if not isinstance(training, Objective):
            raise TypeError(f"training must be an Objective over the training data; got {type(training).__name__}")
        self.training = training

    def at(self, w: Tensor, t: float, ends: tuple[Buffers, Buffers]) -> Buffers:
        """The statistics of the activations at w."""
        del t, ends
        return recomputed(self.training, w)

    def in_training(self, definition: Definition, t: float, ends: tuple[Buffers, Buffers]) -> Definition:
        """Normalised by those of the mini-batch."""
        del t, ends
        seam = copy.deepcopy(definition.seam)
        for layer in layers(seam).values():
            layer.train()
        return replace(definition, seam=seam)

    def words(self) -> str:
        """What a manifest says of it."""
        manifest = self.training.manifest()["objective"]
        sizes = sorted({num_examples(batch) for batch in self.training.batches}, reverse=True)
        return (
            f"recomputed at every point over {manifest['num_examples']} examples in batches of "
            f"{', '.join(map(str, sizes))} ({manifest['split'] or 'unnamed data'} {manifest['data']})"
        )


def recomputed(objective: Objective, w: Tensor) -> dict[str, Tensor]:
    """Batch-norm statistics at the weights w, by the names of their buffers: Σ_b n_b s_b / Σ_b n_b.

    s_b are mean and (unbiased) variance that a layer sees of batch b when all batch-norm layers normalise by their
    batch, and n_b the examples in it, so that a ragged last batch counts for what it holds. Every other layer is in
    evaluation mode: no dropout. The objective's model is not changed.

    Args:
        objective: of the model, over the training data in the batches to average over.
        w: weights, ``(dim,)``.

    Raises:
        ValueError: if a batch has a single value per channel, which has no variance.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double().eval()
    >>> x = torch.randn(5, 2).double()
    >>> objective = Objective(model, nn.functional.mse_loss, [(x, x)])
    >>> found = recomputed(objective, objective.weights)
    >>> torch.allclose(found["1.running_var"], model[0](x).var(dim=0))
    True
    """
    definition = objective.work.definition
    seam = copy.deepcopy(definition.seam)
    found = layers(seam.model)
    if not found:
        return {}
    for layer in found.values():
        layer.train()
        layer.momentum = None  # the plain mean over the calls since a reset: over all of a batch
    named = {f"model.{name}": block for name, block in definition.space.unflatten(w).items()}
    sums: dict[str, Tensor] = {}
    total = 0
    with torch.no_grad():
        for batch in objective.batches:
            for layer in found.values():
                layer.reset_running_stats()
            with needing_variance("give the training data in batches of two or more"):
                functional_call(seam, named, (batch,))
            size = num_examples(batch)
            for name, statistic in of_layers(seam.model).items():
                sums[name] = sums.get(name, 0) + size * doubled(statistic)
            total += size
    kept = of_layers(seam.model)
    return {name: (value / total).to(kept[name]) for name, value in sums.items()}


@contextlib.contextmanager
def needing_variance(advice: str) -> Iterator[None]:
    """A batch with one value per channel, by which no batch norm can normalise, is refused in one sentence."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"a batch of 1 example has no variance that batch norm could use; {advice}, or keep statistics frozen"
        ) from None


def layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers of a model that keep running statistics, by name."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


def of_layers(model: nn.Module) -> dict[str, Tensor]:
    """The running statistics of a model, by the names of their buffers; the batches counted are none."""
    named = dict(model.named_buffers())
    prefixes = [f"{name}." if name else "" for name in layers(model)]
    return {
        f"{prefix}{kind}": named[f"{prefix}{kind}"] for prefix in prefixes for kind in ("running_mean", "running_var")
    }
