"""The shape of a spectrum."""

from __future__ import annotations

import numpy as np
import torch

from landscape.answers import SpectralDensity
from landscape.arguments import integer
from landscape.lanczos import Krylov
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent


def spectral_density(
    operator: CurvatureOperator,
    num_steps: int = 80,
    *,
    num_probes: int = 10,
    seed: int = 0,
    progress: Progress = silent,
) -> SpectralDensity:
    """The distribution of the eigenvalues, by stochastic Lanczos quadrature.

    Each probe runs Lanczos from a random vector; the Ritz values are nodes, and the squared first components of the
    eigenvectors of the tridiagonal matrix are their weights (Golub and Welsch 1969; Ghorbani et al. 2019, arXiv
    1901.10159).

    Args:
        operator: the symmetric matrix.
        num_steps: products per probe; a probe ends early, exactly, when its Krylov space is exhausted.
        num_probes: independent random vectors.
        seed: of the random vectors.
        progress: called with the probes done and their number.

    Raises:
        TypeError: if the operator is none, or a number is not an integer.
        ValueError: if a number is not positive.

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
    seed = integer(seed, "seed")
    if num_steps < 1 or num_probes < 1:
        raise ValueError(f"num_steps and num_probes must be at least 1; got {num_steps} and {num_probes}")
    steps = min(num_steps, operator.dim)
    nodes, weights = np.zeros((num_probes, steps)), np.zeros((num_probes, steps))
    generator = torch.Generator().manual_seed(seed)
    for probe in range(num_probes):
        krylov = Krylov(operator.apply, operator.dim, generator=generator, like=operator.weights)
        krylov.start()
        while krylov.size < steps and not krylov.exhausted:
            krylov.step()
        values, coordinates, _ = krylov.ritz()
        nodes[probe, : krylov.size] = values.numpy()
        weights[probe, : krylov.size] = coordinates[0].square().numpy()
        progress(probe + 1, num_probes)
    settings = {"name": "spectral_density", "num_steps": num_steps, "num_probes": num_probes, "seed": seed}
    manifest = operator.manifest() | {"measurement": settings}
    return SpectralDensity(nodes=nodes, weights=weights, dim=operator.dim, manifest=manifest)
