"""Directions in weight space along which to look: random ones, eigenvectors, and those that lead to other weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from landscape.answers import Eigenpairs
from landscape.arguments import integer, seed_of
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.planes import Axis, Direction, Plane, tensor_of
from landscape.precision import doubled

FLATTEST = 1e-6  # weights whose distance from a line is less than this share of their spread lie on it


def random_direction(objective: Objective, *, seed: int) -> Tensor:
    """A standard normal vector, ``(dim,)``, the same on every device."""
    require_objective(objective)
    generator = torch.Generator().manual_seed(seed_of(seed))
    return torch.randn(objective.space.dim, generator=generator, dtype=torch.float64, device="cpu").to(
        objective.weights
    )


def filter_normalized(objective: Objective, *, seed: int, orthogonal_to: Direction | None = None) -> Tensor:
    """A random direction with d_f ← d_f ‖w_f‖ / ‖d_f‖ for every filter f (Li et al. 2018, arXiv 1712.09913).

    A filter is what makes one output: a row of a linear layer, a kernel of a convolution, and of a transposed one, in
    each of its groups. Vectors (biases, the parameters of normalisation) are not moved, unless there is nothing else:
    each is then a filter of its own.

    Args:
        objective: gives the weights.
        seed: of the normal vector.
        orthogonal_to: another direction ``(dim,)``; the result is orthogonal to it filter by filter. Filters with a
            single weight have no room for that and keep their component.

    Returns:
        A direction, ``(dim,)``.

    Raises:
        TypeError, ValueError: if ``orthogonal_to`` is no direction, or the very one that the seed gives, or if there is
            no filter that is not zero.

    >>> model = torch.nn.Linear(4, 3)
    >>> data = [(torch.zeros(2, 4), torch.zeros(2, 3))]
    >>> d = filter_normalized(Objective(model, torch.nn.functional.mse_loss, data), seed=0)
    >>> torch.allclose(d[:12].view(3, 4).norm(dim=1), model.weight.norm(dim=1)), d[12:].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    require_objective(objective)
    space, groups = objective.space, _groups_of_transposed(objective)
    direction = space.split(random_direction(objective, seed=seed))
    only_vectors = not any(block.ndim > 1 and block.numel() for block in direction)
    others: list[Tensor] | list[None] = [None] * len(direction)
    if orthogonal_to is not None:
        others = space.split(direction_of(objective, orthogonal_to, name="orthogonal_to"))
    for name, block, weights, other in zip(space.names, direction, space.split(objective.weights), others, strict=True):
        if (block.ndim < 2 and not only_vectors) or not block.numel():
            block.zero_()
            continue
        if block.ndim < 2:
            block, weights = block.view(1, -1), weights.view(1, -1)
            other = None if other is None else other.view(1, -1)
        rows = _filters(block, groups.get(name)).clone()  # (filters, weights of a filter)
        if other is not None and rows.shape[1] > 1:
            axes = torch.nn.functional.normalize(_filters(other, groups.get(name)), dim=1)
            if torch.nn.functional.cosine_similarity(rows, axes, dim=1).abs().min() > 0.9999:
                raise ValueError(f"seed {seed} gives the direction to be orthogonal to; choose another seed")
            rows -= axes * (rows * axes).sum(dim=1, keepdim=True)
        target = _filters(weights, groups.get(name)).norm(dim=1, keepdim=True)
        length = rows.norm(dim=1, keepdim=True)
        rows *= torch.where(length > 0, target / length, 0)
        by_output = _by_output(block, groups.get(name))
        by_output.copy_(rows.view(by_output.shape))
    found = space.flatten(dict(zip(space.names, direction, strict=True)))
    if not found.any():
        raise ValueError(
            "a filter-normalised direction is as large as the filters of the weights, which are all zero; take "
            "random_direction, or an eigenvector"
        )
    return found


def eigenvector_axis(objective: Objective, pairs: Eigenpairs, *, index: int = 1) -> Axis:
    """The line w + t v along an eigenvector v as it was found, of length 1: t is a distance in weight space.

    Unlike random directions it is not normalised filter by filter: a rescaled eigenvector is none. Its sign means
    nothing.

    Args:
        objective: gives w. Its data may be others than those of the eigenpairs.
        pairs: eigenpairs of a curvature matrix at w.
        index: which of them, counted from 1 in their order.

    Raises:
        ValueError: if there is no such eigenpair, if it has not converged, or if it belongs to other weights.

    >>> from landscape import HessianOperator, line_slice, top_eigenvalues
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double()  # L(w) = (9 w₁² + w₂²) / 2, around its minimum
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(x, model(x).detach())])
    >>> axis = eigenvector_axis(objective, top_eigenvalues(HessianOperator(objective), k=1))
    >>> line_slice(objective, axis, coordinates=[-2.0, 0.0, 1.0]).losses.round(9).tolist()  # λ t² / 2
    [18.0, 0.0, 4.5]
    """
    return Axis(_eigenvector(objective, pairs, index))


def eigenvector_plane(objective: Objective, pairs: Eigenpairs, *, indices: tuple[int, int] = (1, 2)) -> Plane:
    """The plane w + x v₁ + y v₂ of two eigenvectors as they were found, orthogonal and of length 1.

    Args:
        objective: gives w.
        pairs: eigenpairs of a curvature matrix at w.
        indices: which of them, counted from 1 in their order; for both ends of a spectrum, the first and the last.

    Raises:
        ValueError: as :func:`eigenvector_axis`, and if both are the same one.
    """
    if len(indices) != 2:
        raise ValueError(f"indices must name two eigenpairs; got {len(indices)}")
    first, second = indices
    if first == second:
        raise ValueError(f"indices must name two eigenpairs; got {first} twice, which is no plane")
    return Plane((_eigenvector(objective, pairs, first), _eigenvector(objective, pairs, second)))


def towards(
    objective: Objective, other: Direction, *, name: str = "the other weights", own_name: str = "the model"
) -> Axis:
    """The line w + t (w₁ − w) to other weights w₁ of the same model: t = 0 is w and t = 1 is w₁.

    Args:
        objective: gives w.
        other: w₁, ``(dim,)``.
        name: of w₁, for its mark.
        own_name: of w, for its mark.

    Raises:
        ValueError: if w₁ has another length, is not finite, or is w up to rounding.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> data = [(torch.ones(1, 1).double(), model.weight.detach())]  # L(w) = (w − w₀)²
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> axis = towards(objective, objective.weights + 3, name="b")
    >>> axis.marks.tolist(), axis.mark_names, objective.loss(objective.weights + axis.direction).item()
    ([0.0, 1.0], ('the model', 'b'), 9.0)
    """
    step = _step(objective, other, name=name)
    if float(step.norm()) <= rounding_of(objective):
        raise ValueError(
            f"{name} has the weights of {own_name}: there is no line between them; name another checkpoint"
        )
    return Axis(step.to(objective.weights), np.array([0.0, 1.0]), (own_name, name))


def plane_through(
    objective: Objective,
    first: Direction,
    second: Direction,
    *,
    names: tuple[str, str, str] = ("the model", "the first", "the second"),
) -> Plane:
    """The plane through w and two other weights of the same model, w₁ and w₂ (Garipov et al. 2018, arXiv 1802.10026).

    d₁ = a / ‖a‖ with a = w₁ − w, and d₂ = c / ‖c‖ with c = b − (b·d₁) d₁, b = w₂ − w: orthogonal and of length 1, so
    that distances in the plane are distances in weight space, on both axes alike. The marks are the three weights: w at
    (0, 0), w₁ at (‖a‖, 0), w₂ at (b·d₁, ‖c‖).

    Args:
        objective: gives w.
        first: w₁, ``(dim,)``.
        second: w₂, ``(dim,)``.
        names: of w, w₁ and w₂.

    Raises:
        ValueError: if one of them has another length or is not finite, or if the three lie on one line up to rounding.

    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.ones(1, 2).double(), torch.ones(1, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> w = objective.weights
    >>> plane = plane_through(objective, w + torch.tensor([4.0, 0.0]), w + torch.tensor([1.0, -3.0]))
    >>> plane.marks.round(9).tolist()
    [[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]]
    """
    a, b = _step(objective, first, name=names[1]), _step(objective, second, name=names[2])
    for step, pair in ((a, names[:2]), (b, names[::2]), (a - b, names[1:])):
        if float(step.norm()) <= rounding_of(objective):
            raise ValueError(f"{pair[0]} and {pair[1]} have the same weights; a plane goes through three that differ")
    across = a / a.norm()
    along = float(b @ across)
    c = b - along * across
    c -= (c @ across) * across  # once more: what rounding has left of it
    if float(c.norm()) <= max(rounding_of(objective), FLATTEST * float(b.norm())):
        raise ValueError(
            f"{', '.join(names)} lie on one line and span no plane; look along the line from {names[0]} to {names[1]}, "
            "or name a checkpoint that is not between or beyond the others"
        )
    marks = np.array([[0.0, 0.0], [float(a.norm()), 0.0], [along, float(c.norm())]])
    return Plane((across.to(objective.weights), (c / c.norm()).to(objective.weights)), marks, names)


def direction_of(objective: Objective, direction: Direction, *, name: str) -> Tensor:
    """A direction in the weight space of an objective as a tensor like its weights, ``(dim,)``.

    Raises:
        TypeError: naming it, if it holds anything but real numbers.
        ValueError: naming it, if it has another length or is not finite.
    """
    d = tensor_of(direction, name).to(objective.weights)
    if d.shape != objective.weights.shape:
        raise ValueError(f"{name} must have shape ({objective.space.dim},), one per weight; got {tuple(d.shape)}")
    if not torch.isfinite(d).all():
        raise ValueError(f"{name} has entries that are not finite")
    return d


def weights_of(objective: Objective, weights: Direction, *, name: str) -> Tensor:
    """Other weights of an objective's model as a tensor, ``(dim,)``, where and as precise as they were given.

    Raises:
        ValueError: naming them, if they have another length or are not finite.
    """
    found = tensor_of(weights, name)
    if found.shape != objective.weights.shape:
        raise ValueError(
            f"{name} must have shape ({objective.space.dim},), the weights of the same model; got {tuple(found.shape)}"
        )
    if not torch.isfinite(found).all():
        raise ValueError(f"{name} has weights that are not finite; name a checkpoint from before it diverged")
    return found


def rounding_of(objective: Objective) -> float:
    """The distance that rounding alone can put between weights that are meant to be the same, or on one line."""
    return 4 * torch.finfo(objective.weights.dtype).eps * float(doubled(objective.weights).norm())


def _step(objective: Objective, weights: Direction, *, name: str) -> Tensor:
    """w₁ − w, ``(dim,)``, in double precision, on the objective's device where that has it."""
    require_objective(objective)
    origin = doubled(objective.weights)
    return weights_of(objective, weights, name=name).to(origin) - origin


def _eigenvector(objective: Objective, pairs: Eigenpairs, index: int) -> Tensor:
    require_objective(objective)
    if not isinstance(pairs, Eigenpairs):
        raise TypeError(f"pairs must be the Eigenpairs of top_eigenvalues; got {type(pairs).__name__}")
    dim, count = pairs.eigenvectors.shape
    if not 1 <= integer(index, "index") <= count:
        raise ValueError(f"index must be between 1 and {count}, the eigenpairs that were computed; got {index}")
    if dim != objective.space.dim:
        raise ValueError(
            f"the eigenvectors have {dim} entries and the objective {objective.space.dim} weights; "
            "compute eigenpairs of this objective, or select the same blocks of it"
        )
    theirs, ours = pairs.manifest.get("subject", {}), objective.manifest()["subject"]
    if any(theirs[key] != ours[key] for key in ("weights", "fixed") if key in theirs):
        raise ValueError(
            "the eigenpairs belong to other weights than the objective's, or to the same in another precision (their "
            "hashes differ); compute them at these"
        )
    if not pairs.converged[index - 1]:
        raise ValueError(
            f"eigenpair {index} did not converge (residual {pairs.residuals[index - 1]:.3g}), so its vector is no "
            f"eigenvector; allow more products, or give pairs.eigenvectors[:, {index - 1}] as a plain direction"
        )
    return torch.from_numpy(pairs.eigenvectors[:, index - 1].copy()).to(objective.weights)


def _filters(block: Tensor, groups: int | None) -> Tensor:
    """One row per filter."""
    by_output = _by_output(block, groups)
    return by_output.reshape(math.prod(by_output.shape[: 1 if groups is None else 2]), -1)


def _by_output(block: Tensor, groups: int | None) -> Tensor:
    """A view with the outputs first; a transposed convolution has (inputs, outputs per group, ...) instead."""
    return block if groups is None else block.view(groups, -1, *block.shape[1:]).transpose(1, 2)


def _groups_of_transposed(objective: Objective) -> dict[str, int]:
    """The number of groups of each transposed convolution, by the names of its weight, parametrized or not."""
    found = {}
    for path, layer in objective.model.named_modules():
        if isinstance(layer, _ConvTransposeNd):
            start = f"{path}." if path else ""
            for name, block in layer.named_parameters(prefix=path):
                if "weight" in name.removeprefix(start) and block.shape[1:2] == (layer.out_channels // layer.groups,):
                    found[name] = layer.groups
    return found
