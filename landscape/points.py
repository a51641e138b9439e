"""What is read off objectives at many points w + Σ c_i d_i: one buffer of weights, one pass over the data for each."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.batches import Batch, map_tensors, shape_of_examples, take, tensors
from landscape.denominators import CrossEntropyDenominator
from landscape.first_layers import FirstLayer, first_layers, layers_given_data
from landscape.folding import Fold, folds, rectify_in_place
from landscape.memory import is_out_of_memory
from landscape.readings import Reading
from landscape.terms import Definition, Term

_FEW = 32  # examples that they are tried on
_TRIES = 5  # points at which a way of computing is tried until the model is finite there


class Way(ABC):
    """A way of computing a model's outputs at the point that a buffer of weights is at.

    Attributes:
        name: for the manifest.
        terms: the chunks of data.
    """

    name: str
    terms: list[Term]

    @abstractmethod
    def move(self, coordinates: Sequence[float]) -> None:
        """Follow the buffer to a point."""

    @abstractmethod
    def outputs(self, term: Term) -> Any:
        """The outputs for a term, whose targets and count are set."""


class Plain(Way):
    """The objective's own way: weights handed to the model at each call."""

    name = "plain"

    def __init__(self, definition: Definition, buffer: Tensor, batches: Sequence[Batch]) -> None:
        self.terms = [Term(definition, batch) for batch in batches]
        self._buffer = buffer

    def move(self, coordinates: Sequence[float]) -> None:
        """Nothing is to be done."""

    def outputs(self, term: Term) -> Any:
        """The outputs for a term."""
        return term.outputs(self._buffer)


class InPlace(Way):
    """A copy of the model whose weights are views of the buffer, with batch norm folded into the layers before it,
    with ReLU in place, and with first layers as sums of what is kept.

    Args:
        definition: of the terms.
        buffer: weights, ``(dim,)``.
        batches: the data.
        points: w and the directions, each ``(dim,)``.
        channels_last: how images lie in memory.
        folded: whether batch norms are folded, ReLU is in place, and outputs of first layers are kept.
    """

    def __init__(
        self,
        definition: Definition,
        buffer: Tensor,
        batches: Sequence[Batch],
        points: Sequence[Tensor],
        *,
        channels_last: bool,
        folded: bool,
    ) -> None:
        self._definition = definition
        self._counts: dict[Term, tuple[Any, int, Tensor | float]] = {}
        self._seam = copy.deepcopy(definition.seam)
        named = dict(self._seam.model.named_parameters())
        for name, view in definition.space.unflatten(buffer).items():
            named[name].data = view
        self._recurrent = any(isinstance(part, nn.RNNBase) for part in self._seam.modules())  # looked up once
        data = [map_tensors(_channels_last, batch) for batch in batches] if channels_last else list(batches)
        self.terms = [Term(definition, batch) for batch in data]
        given = layers_given_data(self._seam, data[0]) if folded else {}  # first, as folded weights have no gradient
        if folded:
            rectify_in_place(self._seam, data[0])
        self._folds: list[Fold] = folds(self._seam, data[0], channels_last=channels_last) if folded else []
        for fold in self._folds:
            given.pop(fold.layer, None)
        self._first: list[FirstLayer] = first_layers(self._seam, given, data, definition.space, points)
        words = ["in place"]
        if channels_last:
            words.append("channels last")
        if not folded:
            words.append("layer by layer")
        if self._folds:
            words.append(f"{len(self._folds)} batch norms folded" if len(self._folds) > 1 else "1 batch norm folded")
        if self._first:
            words.append(f"{len(self._first)} first layers kept" if len(self._first) > 1 else "first layer kept")
        self.name = ", ".join(words)

    def move(self, coordinates: Sequence[float]) -> None:
        """Fold the weights that are there now."""
        for fold in self._folds:
            fold.refresh()
        for layer in self._first:
            layer.coordinates = coordinates

    def outputs(self, term: Term) -> Any:
        """The outputs for a term."""
        for layer in self._first:
            layer.term = term
        with self._definition.kernels() if self._recurrent else nullcontext():
            outputs, term.targets = self._seam(term.batch)
        term.count = self._count(term, outputs)
        return outputs

    def _count(self, term: Term, outputs: Any) -> Tensor | float:
        """The denominator, known from the point before where it hangs on the same targets and on nothing else."""
        targets, denominator = term.targets, self._definition.denominator
        if not (isinstance(denominator, CrossEntropyDenominator) and isinstance(targets, Tensor)):
            return denominator(outputs, targets)
        known = self._counts.get(term)
        if known is None or known[0] is not targets or known[1] != targets._version:
            known = self._counts[term] = targets, targets._version, float(denominator(outputs, targets))
        return known[2]

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the numbers of the model that are no weights."""
        return {name: buffer.clone() for name, buffer in self._seam.named_buffers()}


class Points:
    """What is read off objectives of one model at points w + Σ c_i d_i.

    A quick way of computing is taken where it gives the outputs of the plain one, within rounding, at w and at another
    point of the grid: for a few examples of every shape. At w itself, where weights overflow, and
    where the quick way finds no finite number, the plain way is taken, so that the point c = 0 is the objective's own
    number.

    Args:
        readings: of one or two objectives with the same weights.
        w: weights, ``(dim,)``.
        directions: each ``(dim,)``.
        coordinates: the points c, ``(n, directions)``, that will be asked for.
    """

    def __init__(self, readings: Sequence[Reading], w: Tensor, directions: Sequence[Tensor], coordinates: Any) -> None:
        self._readings = readings
        self._w, self._directions, self._coordinates = w, directions, coordinates
        self._at_home: list[bool] = (~coordinates.any(axis=1)).tolist()
        largest = np.array([float(direction.abs().max()) for direction in directions])
        with np.errstate(over="ignore"):
            self._beyond: list[bool] = (abs(coordinates) @ largest > torch.finfo(w.dtype).max).tolist()
        # Infinite where a coordinate is too large for the precision.
        self._rounded: list[list[float]] = torch.as_tensor(coordinates, device="cpu").to(w.dtype).tolist()
        self._buffer, self._row = w.clone(), torch.empty_like(w)
        self._row_is: tuple[float, ...] | None = None
        self._plain = [Plain(reading.definition, self._buffer, reading.batches) for reading in readings]
        with torch.no_grad():
            self._ways = [self._quickest(plain, reading) for plain, reading in zip(self._plain, readings, strict=True)]

    @property
    def ways(self) -> list[str]:
        """How each objective is computed, for the manifest."""
        return [way.name for way in self._ways]

    def at(self, index: int) -> list[float]:
        """The columns of all readings at one of the points."""
        self._go(self._rounded[index])
        plainly = self._at_home[index] or self._beyond[index]
        found: list[float] = []
        with torch.no_grad():
            for reading, way, plain in zip(self._readings, self._ways, self._plain, strict=True):
                way.move(self._rounded[index])
                columns = reading.columns(way.terms, way.outputs) if not plainly else [math.nan]
                if not math.isfinite(columns[0]):
                    columns = reading.columns(plain.terms, plain.outputs)
                found += columns
        return found

    def _go(self, coordinates: Sequence[float]) -> None:
        """Put w + Σ c_i d_i into the buffer; the sum without the first term is kept for the next point of the row."""
        others = tuple(coordinates[1:])
        if others != self._row_is:
            self._row.copy_(self._w)
            for value, direction in zip(others, self._directions[1:], strict=True):
                self._row.add_(direction, alpha=value)
            self._row_is = others
        torch.add(self._row, self._directions[0], alpha=coordinates[0], out=self._buffer)

    def _quickest(self, plain: Plain, reading: Reading) -> Way:
        images = any(isinstance(module, nn.Conv2d) for module in reading.definition.seam.modules())
        names = set()
        for channels_last, folded in ((True, True), (False, True), (True, False), (False, False)):
            if channels_last and not images:
                continue
            try:
                self._go([0.0] * len(self._directions))
                way = InPlace(
                    reading.definition,
                    self._buffer,
                    reading.batches,
                    [self._w, *self._directions],
                    channels_last=channels_last,
                    folded=folded,
                )
                if way.name not in names and self._agree(way, plain):
                    return way
            except Exception as error:  # whatever a model raises that does not stand to be treated so
                if is_out_of_memory(error):
                    break
                continue
            names.add(way.name)
        return plain

    def _agree(self, way: InPlace, plain: Plain) -> bool:
        """Whether a way gives the plain one's outputs at w and away from it, and leaves the model's buffers alone."""
        chosen = {shape_of_examples(term.batch): i for i, term in enumerate(plain.terms)}
        heads = [[_head(each.terms[i]) for i in chosen.values()] for each in (plain, way)]
        pairs = list(zip(*heads, strict=True))
        before = way.buffers()
        if self._same(pairs, way, plain, [0.0] * len(self._directions)) is not True:
            return False
        for coordinates in self._far():
            same = self._same(pairs, way, plain, coordinates)
            if same is not None:
                after = way.buffers()
                unmoved = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
                return same and unmoved
        return False

    def _far(self) -> Iterator[list[float]]:
        """Some points of the grid, the outermost first."""
        order = [i for i in abs(self._coordinates).sum(axis=1).argsort()[::-1] if not self._at_home[i]]
        tries = min(_TRIES, len(order))
        for number in range(tries):
            yield self._rounded[order[number * len(order) // tries]]

    def _same(
        self, pairs: Sequence[tuple[Term, Term]], way: InPlace, plain: Plain, coordinates: Sequence[float]
    ) -> bool | None:
        """Whether two ways agree at a point; None where the plain one is not finite."""
        self._go(coordinates)
        way.move(coordinates)
        for theirs, ours in pairs:
            expected, found = plain.outputs(theirs), way.outputs(ours)
            losses = [theirs.loss_of_outputs(expected), ours.loss_of_outputs(found)]
            wanted, got = tensors(expected), tensors(found)
            floating = [(a, b) for a, b in zip(wanted, got, strict=True) if a.is_floating_point()]
            if not all(bool(torch.isfinite(a).all()) for a, _ in [*floating, (losses[0], losses[0])]):
                return None
            size = max([float(a.abs().max()) for a, _ in floating if a.numel()], default=0.0)
            tolerance = 100 * torch.finfo(losses[0].dtype).eps
            if not abs(losses[0] - losses[1]) <= tolerance * (abs(losses[0]) + size):
                return False
            if not all(bool((a - b).norm() <= tolerance * a.norm()) for a, b in floating):
                return False
        return True


def _head(term: Term) -> Term:
    return Term(term.definition, take(term.batch, 0, _FEW))


def _channels_last(tensor: Tensor) -> Tensor:
    images = tensor.ndim == 4 and tensor.is_floating_point()
    return tensor.contiguous(memory_format=torch.channels_last) if images else tensor
