"""The rescaling audit: which measures of a model are of its function, and which of the way its weights are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from landscape.answers import Audit
from landscape.answers.audit import KINDS
from landscape.arguments import integer, real
from landscape.checks import require_finite
from landscape.fisher_rao import fisher_rao_norm
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.operators import GGNOperator, HessianOperator
from landscape.parts import weighted_mean
from landscape.perturbations import AdaptiveAscent, GradientAscent, every_tensor
from landscape.progress import Progress, silent
from landscape.rescalings import Rescaling, combined, find_rescalings, verified
from landscape.results import Array, Result
from landscape.sharpness import m_sharpness
from landscape.spectrum import top_eigenvalues
from landscape.traces import trace

Measured = float | tuple[float, float] | Result
Measure = Callable[[Objective], Measured]
_EPS_FELT = 100  # how much more a measure may change than the outputs where a normalisation's eps changes these


def audit(
    objective: Objective,
    measures: Mapping[str, Measure] | None = None,
    *,
    rescalings: Sequence[Rescaling] | None = None,
    factor: float = 2.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Audit:
    """How far each measure moves when this very model is rescaled into others that compute the same function.

    A measure F is taken at the weights w and, with the same random numbers, at the rescaled ones; F(T w)/F(w) is 1 for
    what belongs to the function and not to the way it is written (Dinh et al. 2017, arXiv 1703.04933). The ``logits``
    rescaling multiplies the outputs, which changes the loss: it keeps the predictions alone, and only measures of
    normalised logits stay.

    Args:
        objective: the model, its loss and data.
        measures: by name, objective -> a number, a pair (number, standard error), or a result, of which the first line
            counts. What they draw must depend on a seed of their own alone. When left out those of
            :func:`usual_measures` that this loss has: without second derivatives there is no Hessian.
        rescalings: each verified over all data first. When left out, those of :func:`find_rescalings`, all of a kind at
            once; where a kind is then no rescaling over all data, those of its members that are.
        factor: of the rescalings that are looked for, not 1.
        seed: of the search for rescalings, and of the usual measures.
        progress: called with the measurements done and their number.

    Returns:
        Every measure before and after, with uncertainties and verdicts. Where the model has no rescaling that says so.

    Raises:
        TypeError: if a measure is no function, or a rescaling none.
        ValueError: if the weights are not finite, there is no measure, the factor makes no sense, or a given rescaling
            changes the outputs.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
    >>> data = [(torch.randn(9, 2).double(), torch.zeros(9, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> measures = {"loss": lambda o: o.loss(o.weights).item(), "length": lambda o: o.weights.norm().item()}
    >>> result = audit(objective, measures)
    >>> result.rescalings.tolist(), result.verdicts.tolist()
    (['between layers', 'between units'], [['invariant', 'invariant'], ['moves', 'moves']])
    """
    require_objective(objective)
    seed = integer(seed, "seed")
    require_finite(objective.weights)
    are_usual = measures is None
    measures = usual_measures(objective, seed=seed) if measures is None else measures
    if not isinstance(measures, Mapping) or not all(callable(measure) for measure in measures.values()):
        raise TypeError(f"measures must map names to functions of an objective; got {measures!r}")
    if not measures:
        raise ValueError("measures must have at least one entry, name -> objective -> number; got none")
    skipped: tuple[str, ...] = ()
    if rescalings is None:
        used, skipped = _found(objective, factor, seed)
    else:
        for rescaling in rescalings:
            if not isinstance(rescaling, Rescaling):
                raise TypeError(f"rescalings must be those of find_rescalings; got {rescaling!r}")
        used = [verified(objective, rescaling) for rescaling in rescalings]
    places = [objective, *(rescaling.apply(objective) for rescaling in used)]
    found: dict[str, list[_Value]] = {name: [] for name in measures}
    missing: dict[str, ValueError] = {}
    for column, place in enumerate(places):
        for row, (name, measure) in enumerate(measures.items()):
            if name not in missing:
                try:
                    found[name].append(_Value.of(measure(place), name))
                except ValueError as error:
                    if column or not are_usual:
                        raise
                    missing[name] = error
            progress(column * len(measures) + row + 1, len(places) * len(measures))
    rows = [row for row in found.values() if row]
    if not rows:
        raise next(iter(missing.values()))
    values = np.array([[value.value for value in row] for row in rows])
    errors = np.array([[value.stderr for value in row] for row in rows])
    differences = np.array([rescaling.difference for rescaling in used])
    tolerances = np.array([rescaling.tolerance for rescaling in used])
    rounding = math.sqrt(torch.finfo(objective.weights.dtype).eps)
    return Audit(
        measures=np.array([name for name in measures if name not in missing]),
        before=values[:, 0],
        before_stderrs=errors[:, 0],
        after=values[:, 1:],
        after_stderrs=errors[:, 1:],
        change_stderrs=np.array([[row[0].error_of_change(value) for value in row[1:]] for row in rows]),
        slacks=np.maximum(rounding, _EPS_FELT * differences),
        rescalings=np.array([rescaling.kind for rescaling in used], dtype=str),
        layers=np.array([rescaling.name for rescaling in used], dtype=str),
        differences=differences,
        tolerances=tolerances,
        factor=real(factor, "factor"),
        num_examples=objective.num_examples,
        skipped=np.array(skipped, dtype=str),
        unmeasured=np.array([f"{name}: {error}" for name, error in missing.items()], dtype=str),
        manifest=objective.manifest()
        | {
            "measurement": {"name": "audit", "factor": real(factor, "factor"), "seed": seed, "measures": list(measures)}
        },
    )


def usual_measures(
    objective: Objective,
    *,
    rho: float = 0.05,
    adaptive_rho: float = 0.5,
    microbatch_size: int | None = None,
    num_probes: int = 50,
    seed: int = 0,
) -> dict[str, Measure]:
    """The measures that an audit takes when it is told none: three that are known to move, and two that are not.

    Largest Hessian eigenvalue, trace and m-sharpness; adaptive m-sharpness of every tensor with η = 0, and the square
    of the Fisher-Rao norm. Under ``logits`` all of them move; where the loss is ``LogitNormalized`` the last two stay.

    Args:
        objective: what will be measured.
        rho: radius of m-sharpness.
        adaptive_rho: radius of m-sharpness relative to the size of the weights: every tensor is scaled, and η = 0.
        microbatch_size: examples to a shard; 128, or a quarter of fewer than 512, when left out.
        num_probes: products for the trace.
        seed: of eigenvalues and trace.
    """
    size = max(1, min(128, objective.num_examples // 4)) if microbatch_size is None else microbatch_size
    plain, scaled = GradientAscent(rho), AdaptiveAscent(adaptive_rho, eta=0.0, scaled=every_tensor)
    return {
        "largest Hessian eigenvalue": lambda o: top_eigenvalues(HessianOperator(o), k=1, seed=seed),
        "Hessian trace": lambda o: trace(HessianOperator(o), num_probes, seed=seed),
        "m-sharpness": lambda o: m_sharpness(o, plain, microbatch_size=size),
        "m-sharpness, adaptive": lambda o: m_sharpness(o, scaled, microbatch_size=size),
        "Fisher-Rao norm": lambda o: fisher_rao_norm(GGNOperator(o), microbatch_size=size),
    }


class _Value(NamedTuple):
    """What a measure was at one place, with the independent parts that it is the mean of, where it is such a mean."""

    value: float
    stderr: float
    parts: Array | None = None
    weights: Array | None = None

    @classmethod
    def of(cls, measured: Measured, name: str) -> _Value:
        """From what a measure returned.

        Raises:
            TypeError: naming the measure, if that is nothing of the kind.
        """
        if isinstance(measured, Result):
            line = measured.lines()[0]
            found = cls(line.value, 0.0 if line.uncertainty is None else line.uncertainty)
            weights = getattr(measured, "denominators", None)
            for parts in ("per_shard", "samples"):
                mean = found._replace(parts=getattr(measured, parts, None), weights=weights)
                if mean.has_parts:
                    return mean
            return found
        if isinstance(measured, tuple) and len(measured) == 2:
            return cls(real(measured[0], f"the value of {name}"), real(measured[1], f"the standard error of {name}"))
        return cls(real(measured, f"the value of {name}"), 0.0)

    @property
    def has_parts(self) -> bool:
        """Whether value and standard error are those of a mean of the parts: not of squares, say, or of a trace."""
        if not isinstance(self.parts, np.ndarray) or self.parts.ndim != 1 or len(self.parts) < 2:
            return False
        return np.allclose(self.mean_of(self.parts), (self.value, self.stderr), rtol=1e-6, atol=0)

    def mean_of(self, parts: Array) -> tuple[float, float]:
        """Mean and standard error with the weights of this one's parts."""
        return weighted_mean(parts, np.ones(len(parts)) if self.weights is None else self.weights)

    def error_of_change(self, other: _Value) -> float:
        """Of other − this: from pairs of parts, or from both uncertainties as if they were independent."""
        pair = (self.parts, other.parts)
        if pair[0] is not None and pair[1] is not None and len(pair[0]) == len(pair[1]):
            return self.mean_of(pair[1] - pair[0])[1]
        return math.hypot(self.stderr, other.stderr)


def _found(objective: Objective, factor: float, seed: int) -> tuple[list[Rescaling], tuple[str, ...]]:
    """All rescalings of a kind at once, verified over all data, and what was not used."""
    search = find_rescalings(objective, factor=factor, seed=seed)
    used, skipped = [], list(search.skipped)
    for kind in KINDS:
        members = [rescaling for rescaling in search.found if rescaling.kind == kind]
        try:
            used += [verified(objective, combined(members))] if members else []
        except ValueError:  # some are none over all data, or the effects of their eps add up
            together: Rescaling | None = None
            held: list[Rescaling] = []
            for member in members:
                try:
                    together = verified(objective, combined([*held, member]))
                    held.append(member)
                except ValueError as error:
                    skipped.append(f"{kind}, {member.name}: {str(error).rpartition(': ')[2]}")
            used += [together] if together else []
    return used, tuple(skipped)
