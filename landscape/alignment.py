"""Hidden units put in the order of another network's, so that what lies between the two is not an artefact of order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import map_tensors, num_examples, take
from landscape.chance import mixed
from landscape.objective import Objective
from landscape.pairs import require_same_model
from landscape.permutations import Order, Units, reordered
from landscape.precision import doubled, doubled_copy
from landscape.progress import Progress, silent
from landscape.terms import Term
from landscape.units import hidden_units

TOLERANCE = 1e-9  # on how far outputs in double precision move, relative to the largest
_EXAMPLES = 32  # that outputs are compared on
_MOST_SWEEPS = 100
_ORDERS = 0x6F726465  # keeps these streams apart from those that are seeded with the same numbers elsewhere


@dataclass(frozen=True)
class Alignment:
    """A checkpoint with its hidden units in the order of another's.

    Attributes:
        objective: the same function with reordered weights and batch-norm statistics.
        orders: for each layer, ``(units,)``: which of its units has come to each place.
        distance_before: ‖b − a‖₂ as the checkpoints were.
        distance_after: the same with b reordered; never more.
        discrepancy: how far outputs moved in double precision, relative to the largest of them.
        sweeps: of the search that found it, the last of which changed nothing.
        start: which search found it: 0 from the order of b itself, the others from random orders.
    """

    objective: Objective
    orders: Mapping[str, Order] = field(repr=False)
    distance_before: float
    distance_after: float
    discrepancy: float
    sweeps: int
    start: int


def align(
    objective: Objective, other: Objective, *, restarts: int = 4, seed: int = 0, progress: Progress = silent
) -> Alignment:
    """π(b) with the order π of hidden units that brings it near a: min over π of ‖a − π(b)‖₂, layer after layer.

    For one layer with the others held, the best order is that with the largest sum of inner products between the
    weights of its units in a and in b, a linear assignment; under group norm, units stay with their group, and groups
    are assigned as wholes. Layers are gone through in random order until none changes. No such step increases the
    distance, but where it ends depends on where it began: the first search starts from b, the others from random
    orders, and the nearest is kept. Weights that are no part of the objectives do not count.

    Args:
        objective: of the checkpoint a.
        other: of the checkpoint b, of the same model.
        restarts: searches in all.
        seed: of the order of layers and of the random starts.
        progress: called with the searches done and their number.

    Raises:
        TypeError: if one of them is no objective.
        ValueError: if the models differ, if no units of known layers are free, if a weight that would have to be
            moved is frozen, or if outputs change when units are reordered.

    Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, weight matching (arXiv 2209.04836).

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    >>> objective = Objective(model, nn.functional.mse_loss, [(torch.randn(3, 2).double(), torch.zeros(3, 1).double())])
    >>> first, bias, last, end = objective.space.split(objective.weights)
    >>> order = torch.tensor([3, 1, 4, 0, 2])
    >>> moved = torch.cat([part.flatten() for part in (first[order], bias[order], last[:, order], end)])
    >>> align(objective, objective.at(moved)).distance_after
    0.0
    """
    require_same_model(objective, other, "the second checkpoint")
    number, seed = integer(restarts, "restarts", least=1), integer(seed, "seed")
    units = hidden_units(objective.model)
    _require_all_free(objective, units)
    generator = torch.Generator().manual_seed(mixed(seed, _ORDERS))
    _require_same_function(other, _reordered(other, units, [unit.drawn(generator) for unit in units]))
    a, b = (_in_double(of) for of in (objective, other))
    best: tuple[float, int, int, list[Order]] | None = None
    for start in range(number):
        orders = [unit.drawn(generator) if start else np.arange(unit.number) for unit in units]
        sweeps = _descend(a, b, units, orders, generator)
        distance = _distance(a, reordered(b, units, orders))
        if best is None or distance < best[0]:
            best = distance, sweeps, start, orders
        progress(start + 1, number)
    assert best is not None
    distance, sweeps, start, orders = best
    aligned = _reordered(other, units, orders)
    return Alignment(
        objective=aligned,
        orders={unit.layer: order for unit, order in zip(units, orders, strict=True)},
        distance_before=_distance(a, b),
        distance_after=distance,
        discrepancy=_require_same_function(other, aligned),
        sweeps=sweeps,
        start=start,
    )


def _descend(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    units: Sequence[Units],
    orders: list[Order],
    generator: torch.Generator,
) -> int:
    """Improve the orders in place, one layer at a time, until none improves; the sweeps it took."""
    sweeps, changed = 0, True
    while changed and sweeps < _MOST_SWEEPS:
        sweeps, changed = sweeps + 1, False
        for number in torch.randperm(len(units), generator=generator, device="cpu").tolist():
            gains = _gains(a, reordered(b, units, orders, but=number), units[number], orders[number])
            order = units[number].best(gains)
            rows = np.arange(len(order))
            more = gains[rows, order].sum() - gains[rows, orders[number]].sum()
            if more > 1e-12 * np.abs(gains).sum(axis=1).max():  # what rounding gains would go on for ever
                tried = [*orders[:number], order, *orders[number + 1 :]]
                # where units lie along two axes of a tensor, gains are those of one axis at a time
                if not units[number].is_coupled or _is_nearer(
                    a, reordered(b, units, tried), reordered(b, units, orders)
                ):
                    orders[number], changed = order, True
    return sweeps


def _is_nearer(a: Mapping[str, Tensor], one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether one is nearer to a than another is, by more than rounding."""
    return _distance(a, one) < _distance(a, other) * (1 - 1e-12)


def _gains(a: Mapping[str, Tensor], b: Mapping[str, Tensor], units: Units, order: Order) -> npt.NDArray[np.float64]:
    """⟨weights of unit i in a, weights of unit j in b⟩, ``(n, n)``; the distance falls by twice what is gained.

    A tensor that has the units along two axes keeps the order along the other one.
    """
    gains = np.zeros((units.number, units.number))
    for place in units.places:
        if place.name in a:
            others = [other for other in units.places if other.name == place.name and other != place]
            held = reordered({place.name: b[place.name]}, [replace(units, places=others)], [order])
            pair = (tensors[place.name].movedim(place.axis, 0).reshape(units.number, -1) for tensors in (a, held))
            first, second = pair
            gains += (first @ second.T).numpy()
    return gains


def _in_double(objective: Objective) -> dict[str, Tensor]:
    return {name: block.cpu().double() for name, block in objective.space.unflatten(objective.weights).items()}


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt())


def _reordered(objective: Objective, units: Sequence[Units], orders: Sequence[Order]) -> Objective:
    weights = reordered(objective.space.unflatten(objective.weights), units, orders)
    named = {place.name for unit in units for place in unit.places}
    buffers = {name: value for name, value in objective.model.named_buffers() if name in named}
    moved = objective.with_buffers(reordered(buffers, units, orders)) if buffers else objective
    return moved.at(objective.space.flatten(weights))


def _require_all_free(objective: Objective, units: Sequence[Units]) -> None:
    """All parameters that go with units must be part of w, or reordering it would tear them apart."""
    known = {*objective.space.names, *(name for name, _ in objective.model.named_buffers())}
    held = [*dict.fromkeys(place.name for unit in units for place in unit.places if place.name not in known)]
    if held:
        raise ValueError(
            f"hidden units cannot be put in another order without {', '.join(held[:4])}, which the objective leaves "
            "out (frozen, tied to another, or not selected); align the whole model"
        )


def _require_same_function(first: Objective, second: Objective) -> float:
    """Outputs in double precision must be the same; how far they moved, relative to the largest."""
    batch = map_tensors(
        doubled_copy, take(first.work.batches[0], 0, min(_EXAMPLES, num_examples(first.work.batches[0])))
    )
    with torch.no_grad():
        outputs = [Term(of.work.definition.doubled(), batch).outputs(doubled(of.weights)) for of in (first, second)]
    if not isinstance(outputs[0], Tensor):
        raise ValueError(f"alignment compares outputs, which must be one tensor; got {type(outputs[0]).__name__}")
    moved = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max().clamp(min=1e-300))
    if not moved <= TOLERANCE:
        raise ValueError(
            f"the hidden units of this model cannot be put in another order: its outputs move by {moved:.2g} of their "
            "size. Its layers are put together in a way that following them does not show."
        )
    return moved
