"""Rescalings of a model's weights that leave the function it computes as it is: found by their derivatives, verified.

Scale every tensor θ_i of the model, as a whole, by exp(s_i t). The outputs z stay as they are to first order in t
when Σ_i s_i ⟨∂z/∂θ_i, θ_i⟩ = 0. This is a linear system for the exponents s, solved in double precision on some
examples. It finds what any model has, however it is written: ReLU between two layers (Dinh et al. 2017), queries
against keys, gates, weights before a normalisation. What is found is a candidate until the outputs have been compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from landscape.answers.audit import KINDS, LAYERS, LOGITS, NORMALISED, UNITS
from landscape.arguments import integer, real
from landscape.batches import Batch, num_examples, take, tensors
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.scalable import Block, Scalable, product
from landscape.spans import null_space

WITHIN_EPS = 1e-3  # of the outputs, what the eps of a normalisation may change
_FEW = 8  # examples that candidates are compared on
_MOST_PAIRS = 100  # of examples that the derivatives are of
_SPARE = 16  # projections of the outputs beyond the number of unknowns
_LARGEST = 16  # power of the factor
_NAMES = 3  # layers that are named before the others are counted


@dataclass(frozen=True)
class Rescaling:
    """Factors for some of a model's tensors that leave its outputs as they are; ``LOGITS`` multiplies them by ``gain``.

    Attributes:
        kind: ``LAYERS``, ``UNITS``, ``NORMALISED`` or ``LOGITS``.
        name: the layers it is about, in the order in which they are computed.
        factors: what each tensor that changes is multiplied by, broadcast against it. With ``<batch norm>.statistics``
            its running mean and standard deviation are.
        gain: what the outputs are multiplied by.
        difference: the largest difference of an output on the examples that were compared, next to the largest output.
        tolerance: what that may be: rounding, or ``WITHIN_EPS`` where a normalisation adds its eps to a variance.
        num_examples: that were compared.
    """

    kind: str
    name: str
    factors: Mapping[str, Tensor] = field(repr=False)
    gain: float = 1.0
    difference: float = math.nan
    tolerance: float = math.nan
    num_examples: int = 0

    def apply(self, objective: Objective) -> Objective:
        """The objective at the rescaled weights, and with the rescaled statistics of its batch norms."""
        changed, space = Scalable(objective.work.definition).scaled(self.factors), objective.space
        buffers = {name: value for name, value in changed.items() if name not in space.names}
        moved = objective.with_buffers(buffers) if buffers else objective
        return moved.at(space.flatten(space.unflatten(objective.weights) | changed))


@dataclass(frozen=True)
class Rescalings:
    """What was found, and what was not taken, each with the reason in a sentence."""

    found: tuple[Rescaling, ...]
    skipped: tuple[str, ...]

    def together(self) -> tuple[Rescaling, ...]:
        """All of a kind at once, for each kind of which there is one."""
        kinds = ([one for one in self.found if one.kind == kind] for kind in KINDS)
        return tuple(combined(of_kind) for of_kind in kinds if of_kind)


def combined(rescalings: Sequence[Rescaling]) -> Rescaling:
    """Rescalings one after another, as one; how far the outputs move is then to be verified again."""
    first, *others = rescalings
    if not others:
        return first
    return Rescaling(
        kind=first.kind,
        name=f"{len(rescalings)} at once: " + _listed([one.name for one in rescalings], "; "),
        factors=product(one.factors for one in rescalings),
        gain=math.prod(one.gain for one in rescalings),
        tolerance=max(one.tolerance for one in rescalings),
    )


def find_rescalings(objective: Objective, *, factor: float = 2.0, seed: int = 0) -> Rescalings:
    """The rescalings of this very model, tensor by tensor, that leave its function as it is.

    Solves Σ_i s_i ⟨∂z/∂θ_i, θ_i⟩ = 0 for the exponents s_i of all tensors θ_i, with z the outputs on some examples, and
    takes those solutions under which the outputs stay the same, to rounding, when θ_i is multiplied by a^{s_i}:

    - ``LAYERS``: what one layer gains another loses (a W₁, a b₁, W₂/a). Every other one has 1/a in place of a, so that
      all of them at once unbalance the layers.
    - ``UNITS``: the same with a and 1/a in turn for the units, or channels, of the layer between.
    - ``NORMALISED``: weights before a normalisation. Running statistics of batch norm, in evaluation mode, go with
      their layer, which is exact. Where a normalisation adds its eps to a variance of the data the outputs may change
      by ``WITHIN_EPS``.
    - ``LOGITS``: the last layer. It multiplies the outputs by a, and leaves predictions alone as they are.

    Tensors of zeros, and those that the outputs do not depend on, are not scaled. Weights of queries, keys and values
    in one tensor (``in_proj``, ``qkv``, ``c_attn``) count as three.

    Args:
        objective: its model and data; rescalings are of its weights and of statistics alone.
        factor: a.
        seed: of the projections of the outputs that are differentiated.

    Returns:
        Those that were found, compared on a few examples: :func:`verified` compares them on all.

    Raises:
        TypeError: if the factor is no number.
        ValueError: if it is not positive, or 1.

    Source: Dinh, Pascanu, Bengio, Bengio 2017 (arXiv 1703.04933).

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    >>> objective = Objective(model, nn.functional.mse_loss, [(torch.randn(9, 2).double(), torch.zeros(9, 1).double())])
    >>> first, by_units = find_rescalings(objective).found
    >>> first.name, {name: factor.item() for name, factor in first.factors.items()}
    ('0 → 2', {'0.weight': 2.0, '0.bias': 2.0, '2.weight': 0.5})
    >>> torch.allclose(first.apply(objective).loss(first.apply(objective).weights), objective.loss(objective.weights))
    True
    """
    require_objective(objective)
    factor = real(factor, "factor")
    if not (factor > 0 and math.isfinite(factor) and factor != 1):
        raise ValueError(f"factor must be a positive number other than 1, such as 2; got {factor}")
    return _Finder(objective, factor, integer(seed, "seed")).run()


def verified(objective: Objective, rescaling: Rescaling) -> Rescaling:
    """A rescaling together with how far it moves the outputs over all data of an objective.

    Raises:
        ValueError: if that is more than its tolerance.
    """
    batches = objective.work.batches
    scalable = Scalable.precise(objective.work.definition, take(batches[0], 0, _FEW))
    far = difference(scalable, rescaling, [term.batch for term in objective.work.of(batches).terms])
    if not far <= rescaling.tolerance:
        raise ValueError(
            f"{rescaling.kind}, {rescaling.name}: the outputs change by {far:.2g} of their size over all data, and "
            f"{rescaling.tolerance:.2g} would be rounding; it is no rescaling of this function"
        )
    return dataclasses.replace(rescaling, difference=far, num_examples=objective.num_examples)


def difference(
    scalable: Scalable, rescaling: Rescaling, batches: Sequence[Batch], before: Sequence[Tensor] | None = None
) -> float:
    """max |z' − gain · z| / max |gain · z| over all outputs z of the batches; NaN where one is not finite.

    Args:
        scalable: the function.
        rescaling: of it.
        batches: the data.
        before: z, batch by batch, where they are known.
    """
    changed = scalable.scaled(rescaling.factors)
    apart = size = torch.zeros((), device="cpu")
    for i, batch in enumerate(batches):
        wanted = rescaling.gain * (scalable.outputs(batch) if before is None else before[i])
        apart = torch.maximum(apart.to(wanted), (wanted - scalable.outputs(batch, changed)).abs().max())
        size = torch.maximum(size.to(wanted), wanted.abs().max())
    return float(apart / torch.where(size > 0, size, 1))


class _Finder:
    """One search."""

    def __init__(self, objective: Objective, factor: float, seed: int) -> None:
        self.objective, self.factor, self.seed = objective, factor, seed
        few = take(objective.work.batches[0], 0, _FEW)
        self.true = Scalable.precise(objective.work.definition, few)
        self.ideal = self.true.without_eps()
        if not torch.isfinite(self.ideal.outputs(few)).all():  # a variance of zero
            self.ideal = self.true
        self.few = few
        self.before = {place: [place.outputs(few)] for place in (self.true, self.ideal)}
        self.found: list[Rescaling] = []
        self.skipped: list[str] = []

    def run(self) -> Rescalings:
        """Everything that is found."""
        blocks, effects, scales = self.ideal.influence(
            _pairs(self.objective.work.batches), spare=_SPARE, seed=self.seed
        )
        held = {*self.objective.space.names, *self.true.norms}
        usable = [i for i, block in enumerate(blocks) if block.tensor in held]
        tolerance = self.true.rounding
        for row in null_space(effects[:, [*usable, -1]], scales[[*usable, -1]], tolerance=tolerance):
            exponents = {blocks[i]: float(power) for i, power in zip(usable, row, strict=False) if power}
            if max(map(abs, exponents.values()), default=0) <= _LARGEST:
                self._consider(exponents, float(row[-1]))
            else:  # how the tensors are to go together is lost in rounding
                self.skipped.append(f"{_name(exponents)}: the outputs hardly depend on these, too little to tell how")
        if len(usable) < len(blocks):
            for row in null_space(effects[:, :-1], scales[:-1], tolerance=tolerance):
                members = {block: float(power) for block, power in zip(blocks, row, strict=True) if power}
                missing = sorted({block.tensor for block in members} - held)
                if missing and max(map(abs, members.values())) <= _LARGEST:
                    name = _name(members)
                    self.skipped.append(f"{name}: {_listed(missing)} is frozen, or no part of the weights measured")
        return Rescalings(tuple(self.found), tuple(self.skipped))

    def _consider(self, exponents: Mapping[Block, float], gain: float) -> None:
        """Take a candidate, by layers and by units, if the outputs agree."""
        kind = _kind(exponents, gain)
        if not exponents or (kind == LOGITS and not self._has_classes()):
            return
        turned = kind == LAYERS and len([one for one in self.found if one.kind == LAYERS]) % 2
        a = 1 / self.factor if turned else self.factor
        a = a ** (1 / gain) if kind == LOGITS else a
        factors = product({block.tensor: self.true.factor(block, a**power)} for block, power in exponents.items())
        whole = Rescaling(kind, _name(exponents), factors, gain=a**gain if kind == LOGITS else 1.0)
        reason = self._take(whole)
        if reason:
            self.skipped.append(f"{whole.name}: {reason}")
        elif kind == LAYERS and (by_units := self._by_units(exponents)):
            self._take(Rescaling(UNITS, whole.name, by_units))  # not every pair of layers has units of its own

    def _take(self, candidate: Rescaling) -> str:
        """Add a candidate to what is found, or say why not."""
        rounding = 10 * self.true.rounding
        ideal = difference(self.ideal, candidate, [self.few], self.before[self.ideal])
        if not ideal <= rounding:
            return f"it holds to first order only; at a factor of {self.factor:g} the outputs change by {ideal:.2g}"
        far = difference(self.true, candidate, [self.few], self.before[self.true])
        if not far <= WITHIN_EPS:
            return f"the eps of the normalisation changes the outputs by {far:.2g}"
        tolerance = rounding if far <= rounding else WITHIN_EPS
        compared = num_examples(self.few)
        self.found.append(dataclasses.replace(candidate, difference=far, tolerance=tolerance, num_examples=compared))
        return ""

    def _by_units(self, exponents: Mapping[Block, float]) -> dict[str, Tensor] | None:
        """Factors a and 1/a in turn for the units between the layers; None where shapes do not have them."""
        shapes = {block: self.true.parameters[block.tensor].shape for block in exponents if _is_whole(block, self.true)}
        gaining = {shape[0] for block, shape in shapes.items() if exponents[block] > 0 and shape}
        if len(shapes) < len(exponents) or len(gaining) != 1 or {abs(power) for power in exponents.values()} != {1.0}:
            return None
        (units,) = gaining
        factors = torch.full((units,), self.factor, dtype=torch.float64, device="cpu")
        factors[1::2] = 1 / self.factor
        found = {}
        for block, shape in shapes.items():
            along, values = (0, factors) if exponents[block] > 0 else (1, 1 / factors)
            if len(shape) <= along or shape[along] % units:
                return None
            values = values.repeat_interleave(shape[along] // units)  # flattened images follow their channel
            found[block.tensor] = values.view([-1 if i == along else 1 for i in range(len(shape))])
        return found

    def _has_classes(self) -> bool:
        """Whether targets are classes, so that the largest output is a prediction."""
        targets: Any = self.true.outputs_and_targets(self.few, {})[1]
        found = tensors(targets)
        return bool(found) and not any(part.is_floating_point() or part.is_complex() for part in found)


def _kind(exponents: Mapping[Block, float], gain: float) -> str:
    if gain:
        return LOGITS
    losing = any(power < 0 for power in exponents.values())
    return LAYERS if losing and not any(block.is_statistics for block in exponents) else NORMALISED


def _is_whole(block: Block, scalable: Scalable) -> bool:
    return block.part is None and block.tensor in scalable.parameters


def _pairs(batches: Sequence[Batch]) -> list[Batch]:
    """The first examples two by two, for models that squeeze do not take one."""
    found: list[Batch] = []
    for batch in batches:
        starts = range(0, max(1, num_examples(batch) - 1), 2)
        found += [take(batch, start, start + 2) for start in starts[: _MOST_PAIRS - len(found)]]
    return found


def _name(exponents: Mapping[Block, float]) -> str:
    gaining = list(dict.fromkeys(block.layer for block, power in exponents.items() if power > 0))
    losing = list(dict.fromkeys(block.layer for block, power in exponents.items() if power < 0))
    return " → ".join(_listed(part) for part in (gaining, losing) if part)


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    more = len(names) - _NAMES
    return separator.join(names) if more <= 1 else f"{separator.join(names[:_NAMES])}{separator}{more} more"
