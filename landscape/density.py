"""The shape of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.answers import Eigenpairs, SpectralDensity
from landscape.arguments import integer, real, seed_of
from landscape.chance import mixed
from landscape.clock import Clock
from landscape.operators import CurvatureOperator, require_operator
from landscape.orthonormal import gaussian, orthonormal
from landscape.pages import Pages
from landscape.processes import attempted
from landscape.progress import Progress, silent
from landscape.results import Array

_PROBES = 0x70726F62  # keeps this stream apart from those that are seeded with the same numbers elsewhere


def spectral_density(
    operator: CurvatureOperator,
    num_steps: int = 80,
    *,
    num_probes: int = 10,
    outliers: Eigenpairs | None = None,
    width: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> SpectralDensity:
    """The distribution of the eigenvalues, by stochastic Lanczos quadrature.

    Each probe runs Lanczos from a random vector, with full reorthogonalisation; the Ritz values are nodes, and the
    squared first components of the eigenvectors of the tridiagonal matrix are their weights (Golub and Welsch 1969;
    Ghorbani et al. 2019, arXiv 1901.10159).

    Args:
        operator: the symmetric matrix.
        num_steps: products per probe; a probe ends early, exactly, when its Krylov space is exhausted.
        num_probes: independent random vectors.
        outliers: eigenpairs found before; the converged ones count as they are, one eigenvalue of ``dim`` each, and
            the probes explore what is orthogonal to them. Of all eigenvalues the last is left to the probes.
        width: of the kernel that smooths the density, in units of the eigenvalues, and how near to zero counts as
            zero; 0.5 % of the range of the nodes when left out, or of what is farthest from zero if there is one node.
        max_seconds: start no probe that would not end in time; the first is cut short where it must be.
        seed: of the random vectors.
        progress: called with the probes done and their number.

    Raises:
        TypeError: if the operator is none, or an argument is of another kind.
        ValueError: if a number is not positive, or the outliers are of another matrix.

    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.eye(2).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # the identity
    >>> np.allclose(spectral_density(hessian, 5, num_probes=1).nodes[0, 0], 1.0)
    True
    """
    require_operator(operator)
    num_steps, num_probes = integer(num_steps, "num_steps"), integer(num_probes, "num_probes")
    seed = seed_of(seed)
    if num_steps < 1 or num_probes < 1:
        raise ValueError(f"num_steps and num_probes must be at least 1; got {num_steps} and {num_probes}")
    limits = {"width": width, "max_seconds": max_seconds}
    given = {name: real(value, name) for name, value in limits.items() if value is not None}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    if width is not None and math.isinf(width):
        raise ValueError("width must be finite; got inf, under which there is no density")
    values, known = _converged(operator, outliers)
    dim, count = operator.dim, known.shape[1]
    work = operator.objective.work
    clock = Clock(work.sharing, like=operator.weights, limit=given.get("max_seconds", math.inf))

    def probed() -> list[tuple[Array, Array]]:
        # Not the vectors that a search for eigenpairs of this seed began with: what it found may hang on these.
        generator = torch.Generator().manual_seed(mixed(seed, _PROBES) if count else seed)
        rows: list[tuple[Array, Array]] = []
        while len(rows) < num_probes:
            if rows and "max_seconds" in given and clock.seconds * (len(rows) + 1) / len(rows) > clock.limit:
                break
            late = (lambda: False) if rows else (lambda: clock.is_over)
            rows.append(_quadrature(operator, known, min(num_steps, dim - count), generator, late))
            progress(len(rows), num_probes)
        work.require_end(torch.from_numpy(rows[-1][0]))
        return rows

    rows = attempted(work.sharing, probed)
    steps = max(len(nodes) for nodes, _ in rows) if "max_seconds" in given else min(num_steps, dim - count)
    nodes, weights = np.zeros((len(rows), steps)), np.zeros((len(rows), steps))
    for row, (found, shares) in enumerate(rows):
        nodes[row, : len(found)] = found
        weights[row, : len(found)] = shares * (1 - count / dim)
    settings = {"name": "spectral_density", "num_steps": num_steps, "num_probes": num_probes, "seed": seed}
    settings |= given
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        dim=dim,
        outliers=values,
        width=given.get("width"),
        stopped="budget" if len(rows) == num_probes and steps >= min(num_steps, dim - count) else "time",
        manifest=operator.manifest() | {"measurement": settings},
    )


def _quadrature(
    operator: CurvatureOperator, known: Tensor, steps: int, generator: torch.Generator, late: Callable[[], bool]
) -> tuple[Array, Array]:
    """Nodes, and weights that sum to one, from one probe that is orthogonal to the known vectors."""
    rounding, sharing = 10 * torch.finfo(operator.weights.dtype).eps, operator.objective.work.sharing
    start = orthonormal(gaussian(1, like=operator.weights, generator=generator), known, generator=generator)
    vector, count = sharing.led(start)[:, 0], known.shape[1]
    basis = Pages(vector, most=count + steps)
    for column in known.T:
        basis.append(column)
    projection = np.zeros((steps, steps))
    scale, size = 0.0, 0
    while True:
        basis.append(vector)
        image = operator.apply(vector)
        if not torch.isfinite(image).all():
            raise ValueError("a product with the operator is not finite: the loss overflows at these weights")
        scale = max(scale, float(torch.linalg.vector_norm(image)))
        column = basis.times(image)
        leftover = image - basis.combined(column)
        correction = basis.times(leftover)
        leftover -= basis.combined(correction)
        projection[: size + 1, size] = projection[size, : size + 1] = (column + correction)[count:].cpu().double()
        size += 1
        length = float(torch.linalg.vector_norm(leftover))
        ended = length <= max(rounding * scale, torch.finfo(vector.dtype).tiny)
        if size == steps or sharing.found(float(ended), like=vector) or late():
            break
        vector = sharing.led(leftover / length)
    nodes, coordinates = np.linalg.eigh(projection[:size, :size])
    return nodes, coordinates[0] ** 2


def _converged(operator: CurvatureOperator, outliers: Eigenpairs | None) -> tuple[Array, Tensor]:
    """Eigenvalues that are certain, with orthonormal vectors, ``(dim, k)``."""
    if outliers is None:
        return np.empty(0), operator.weights.new_empty(operator.dim, 0)
    if not isinstance(outliers, Eigenpairs):
        raise TypeError(f"outliers must be the Eigenpairs of top_eigenvalues; got {type(outliers).__name__}")
    ours, theirs = _matrix(operator.manifest()), _matrix(outliers.manifest)
    same = all(ours[key] == theirs.get(key, ours[key]) for key in ours)
    if outliers.eigenvectors.shape[0] != operator.dim or not same:
        raise ValueError("outliers are eigenpairs of another matrix; pass top_eigenvalues(operator, ...) of this one")
    sure = outliers.converged.copy()
    if sure.sum() == operator.dim:
        sure[-1] = False  # a probe has to have a direction, in which it finds this one
    vectors = torch.as_tensor(np.array(outliers.eigenvectors[:, sure]), device="cpu").to(operator.weights)
    return np.array(outliers.eigenvalues[sure], dtype=np.float64), torch.linalg.qr(vectors).Q


def _matrix(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the matrix; not the way of its products, which shows with the first one."""
    found = {key: manifest[key] for key in ("objective", "subject", "operator") if key in manifest}
    if "operator" in found:
        found["operator"] = {key: value for key, value in found["operator"].items() if key != "products"}
    return found
