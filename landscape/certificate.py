"""Products with a curvature matrix are held against differences of first derivatives once, before they are believed.

Second derivatives can be wrong in silence: a kernel whose double backward has a mistake, a custom function that drops
out of it, a part that is detached. Such a product is no derivative of the gradient, and often not symmetric.

The comparison is made in double precision, on a few examples, at weights moved a little off the objective's, so that
no kink or zero is hit exactly. A ReLU network has a Hessian between its kinks only, and a difference quotient across a
kink is off by the jump over the step. Two steps a hundred times apart therefore have to agree with one another before
they count as evidence against a product: across a kink, or in rounding, they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from landscape.batches import Batch, map_tensors, num_examples, take
from landscape.curvatures import Curvature
from landscape.parameters import ParameterSpace
from landscape.precision import doubled, doubled_copy
from landscape.products import Linear, NoSecondDerivativeError
from landscape.terms import Definition, Term

At = Callable[[Term, Tensor], Linear]
EXAMPLES = 8  # of the first batch that has anything to count
PROBES = 4  # vectors that the symmetry is estimated from
STEPS = (1e-6, 1e-8)  # relative to the weights of each block
OFFSET = 1e-2  # of the place where products are compared, relative to the weights of each block
AGREES, CONSISTENT, SYMMETRIC = 1e-4, 1e-5, 5e-2  # relative errors of a product, of two quotients, of symmetry


def certify(
    curvature: Curvature,
    definition: Definition,
    w: Tensor,
    batches: Sequence[Batch],
    *,
    at: At,
    again: At | None = None,
) -> None:
    """The products of a kind of curvature must be symmetric and the derivative of what they differentiate.

    Where the model cannot be evaluated in double precision, only the symmetry is looked at.

    Args:
        curvature: the kind, for its difference quotients.
        definition: of the terms.
        w: where, ``(dim,)``.
        batches: from which a few examples are taken.
        at: (term, w) -> products, those that are to be believed.
        again: the same by a smaller step, where they are differences; nothing is said where the two disagree, at kinks.

    Raises:
        ValueError: saying by how much they are off.
    """
    batch = sample(definition, w, batches)
    try:
        defect = _defect(
            curvature, (at, again), Term(definition.doubled(), map_tensors(doubled_copy, batch)), doubled(w)
        )
    except NoSecondDerivativeError:
        raise
    except (RuntimeError, TypeError, ValueError):  # a kernel or a table of single precision, or no memory for it
        defect = _defect(curvature, (at, again), Term(definition, batch), w)
    if defect:
        raise ValueError(
            f"products with the {curvature.name} of this model cannot be trusted: {defect}. {_advice(definition)}"
        )


def _defect(curvature: Curvature, ways: tuple[At, At | None], term: Term, w: Tensor) -> str:
    """What is wrong with the products, or nothing."""
    at, again = ways
    sizes = sizes_of(term.definition.space, w)
    offset, *vectors = sizes * signs(w, 1 + PROBES)  # as large as the weights
    V = torch.stack(vectors, dim=1)  # (dim, probes)
    for place in (w + OFFSET * offset, w):
        product = at(term, place)(V)
        if bool(torch.isfinite(product).all()):
            break
    else:
        return ""  # whoever multiplies will say so
    if again is not None and apart(product, again(term, place)(V)) > CONSISTENT:
        return ""
    # Entries times sizes are in units of the loss, so that all blocks count alike.
    product = sizes[:, None] * product
    asymmetry = _asymmetry((V / sizes[:, None]).T @ product, product, term.loss(place))
    if asymmetry > SYMMETRIC:
        return f"they are not symmetric, u·Av and v·Au differ by {asymmetry:.2g} of their size"
    if w.dtype != torch.float64:
        return ""  # a step that avoids kinks is lost in rounding
    quotients = [sizes * curvature.quotient(term, place, step * V[:, 0]) / step for step in STEPS]
    if any(apart(quotient, product[:, 0]) <= AGREES for quotient in quotients):
        return ""
    if not quotients[0].any() or apart(*quotients) > CONSISTENT:  # rounding inside the model, or a kink
        return ""
    by = apart(quotients[0], product[:, 0])
    return f"they differ by {by:.2g} of their size from difference quotients of first derivatives"


def differences_at(curvature: Curvature, step: float) -> At:
    """Products by difference quotients of first derivatives, for a certificate of what is measured by these."""

    def at(term: Term, w: Tensor) -> Linear:
        def product(V: Tensor) -> Tensor:
            steps = step * (w.norm() or 1) * V / V.norm(dim=0)
            lengths = V.norm(dim=0) / steps.norm(dim=0)
            images: Tensor = torch.stack([curvature.quotient(term, w, s) for s in steps.T], dim=1) * lengths
            return images

        return product

    return at


def sample(definition: Definition, w: Tensor, batches: Sequence[Batch], number: int = EXAMPLES) -> Batch:
    """Some of the first examples that lie together and have something to count; the first of all where none has."""
    for batch in batches:
        size = num_examples(batch)
        for start in range(0, size, number):
            few = take(batch, start, min(start + number, size))
            term = Term(definition, few)
            with torch.no_grad():
                term.outputs(w)
            if term.count != 0:
                return few
    return take(batches[0], 0, min(number, num_examples(batches[0])))


def sizes_of(space: ParameterSpace, w: Tensor) -> Tensor:
    """For each weight the root mean square of its block, or of all weights where the block is zero, ``(dim,)``."""
    overall = w.square().mean().sqrt()
    overall = torch.where(overall > 0, overall, 1)
    blocks = (block.square().mean().sqrt().expand(block.numel()) for block in space.split(w))
    sizes = torch.cat(list(blocks))
    return torch.where(sizes > 0, sizes, overall)


def signs(like: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Random signs, ``(count, dim)``."""
    drawn = torch.randint(
        0, 2, (count, len(like)), generator=torch.Generator().manual_seed(seed), dtype=torch.int8, device="cpu"
    )
    return (2 * drawn - 1).to(like)


def _asymmetry(projected: Tensor, product: Tensor, loss: Tensor) -> float:
    """‖A − A'‖ / 2‖A‖ in the Frobenius norm, estimated from V'AV and AV for random signs V."""
    pairs = PROBES * (PROBES - 1)
    apart = (projected - projected.T).norm() / pairs**0.5
    rounding = 1e4 * torch.finfo(product.dtype).eps * loss.detach().abs()
    return float(apart / (2 * product.norm() / PROBES**0.5 + rounding))


def apart(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ relative to the larger of the two; zero where both are."""
    size = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / size if size else 0.0


def _advice(definition: Definition) -> str:
    kinds = {type(part).__name__ for part in definition.seam.modules()}
    hooks = {type(hook).__name__ for part in definition.seam.modules() for hook in part._forward_pre_hooks.values()}
    if "_WeightNorm" in kinds or "WeightNorm" in hooks:
        return (
            "The double backward of torch's fused weight norm is wrong: fold the norm into the weights before "
            "measuring, with torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') (or "
            "torch.nn.utils.remove_weight_norm), or write the parametrization as g * v / v.norm()."
        )
    padded = any(getattr(part, "padding_idx", None) is not None for part in definition.seam.modules())
    row = ", the row of an embedding's padding_idx, which gets no gradient (mask it, or set padding_idx=None)"
    return (
        "An operation in it has a wrong second derivative, or leaves a part out of it: a custom autograd function "
        f"(once_differentiable), a straight-through estimate, something detached{row if padded else ''}. Measure "
        "without it."
    )
