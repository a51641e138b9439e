"""Relative flatness: the curvature of a layer, weighed by its weights."""

from __future__ import annotations

import fnmatch
import glob
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.answers import RelativeFlatness
from landscape.arguments import integer
from landscape.chance import mixed
from landscape.checks import require_finite
from landscape.estimators import Estimator
from landscape.objective import Objective
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent
from landscape.traces import KRYLOV_AWARE, trace


def relative_flatness(
    operator: CurvatureOperator,
    num_probes: int = 100,
    *,
    layers: str = "*",
    estimator: Estimator = KRYLOV_AWARE,
    rtol: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> RelativeFlatness:
    """Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'} over the rows w_s of each layer's matrix W, with a standard error.

    H_{s,s'} = ∂²L/∂w_s ∂w_s'. With R = (W W')^½ it is the trace of (R ⊗ I) H (R ⊗ I), which is estimated from its
    products as any trace is, and exact where the budget is that of the layer's weights or more. It does not change when
    a layer is multiplied by a and the next one divided by it behind a ReLU. What the source names κ_Tr of a layer
    (Petzka, Kamp, Adilova, Sminchisescu and Boley 2021, arXiv 2001.00939) is in ``values``, by name; a kernel of a
    convolution is taken as one row.

    Args:
        operator: ``HessianOperator(objective)``.
        num_probes: products for each layer, at the most.
        layers: a pattern of the names of matrices of weights, such as ``"head.*"``; vectors are no layers.
        estimator: as for :func:`landscape.trace`.
        rtol: stop a layer when its standard error is at most rtol times its value, with a confidence of 95 %.
        seed: of the probes, which each layer has its own of.
        progress: called with the layers done and their number.

    Raises:
        TypeError: if the operator is none, or an argument is of another kind.
        ValueError: if the weights are not finite, if no matrix of weights has such a name, or there are too few
            products to leave a standard error.

    >>> from landscape.operators import HessianOperator
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> _ = torch.nn.init.constant_(model.weight, 2.0)
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(9, 1)
    >>> round(relative_flatness(hessian, num_probes=2).value, 9)  # ‖w‖² tr H
    80.0
    """
    require_operator(operator)
    require_finite(operator.weights)
    if not isinstance(layers, str):
        raise TypeError(f"layers must be a pattern of names, such as 'head.*'; got {layers!r}")
    seed, space = integer(seed, "seed"), operator.objective.space
    blocks = zip(space.names, space.split(operator.weights), strict=True)
    chosen = {name: W for name, W in blocks if W.ndim > 1 and W.numel() and fnmatch.fnmatchcase(name, layers)}
    if not chosen:
        matrices = [name for name, shape in zip(space.names, space.shapes, strict=True) if len(shape) > 1]
        raise ValueError(f"layers matches no matrix of weights: {layers!r}; there are {', '.join(matrices) or 'none'}")
    found = []
    for place, (name, W) in enumerate(chosen.items()):
        weighed = _Weighed(operator.block(glob.escape(name)), W)
        found.append(trace(weighed, num_probes, estimator=estimator, rtol=rtol, seed=mixed(seed, place)))
        progress(place + 1, len(chosen))
    values, stderrs = np.array([each.estimate for each in found]), np.array([each.stderr for each in found])
    settings = dict(found[0].manifest["measurement"])
    settings |= {"name": "relative_flatness", "seed": seed, "layers": list(chosen)}
    return RelativeFlatness(
        value=float(values.sum()),
        stderr=math.sqrt(float(stderrs @ stderrs)),
        layers=np.array(list(chosen)),
        values=values,
        stderrs=stderrs,
        num_products=np.array([each.num_products for each in found]),
        stopped=np.array([each.stopped for each in found]),
        manifest=operator.manifest() | {"measurement": settings},
    )


class _Weighed(CurvatureOperator):
    """(R ⊗ I) H (R ⊗ I) for the block H of one matrix W of weights, R = (W W')^½."""

    def __init__(self, block: CurvatureOperator, W: Tensor) -> None:
        super().__init__(block.objective, weights=block.weights)
        self._block = block
        self._rows = W.reshape(len(W), -1)
        lengths, basis = torch.linalg.eigh((self._rows @ self._rows.T).cpu())
        self._root = (basis * lengths.clamp(min=0).sqrt() @ basis.T).to(W)  # (rows, rows)

    def apply(self, V: Tensor) -> Tensor:
        return self._weighed(self._block.apply(self._weighed(V)))

    def over(self, objective: Objective) -> CurvatureOperator:
        return _Weighed(self._block.over(objective), self._rows)

    def _with(self, objective: Objective) -> CurvatureOperator:
        return _Weighed(self._block._with(objective), objective.weights.reshape(self._rows.shape))

    def _weighed(self, V: Tensor) -> Tensor:
        """(R ⊗ I) V, for ``(dim,)`` or ``(dim, k)``."""
        image: Tensor = self._root @ V.reshape(len(self._root), -1)
        return image.reshape(V.shape)

    @property
    def words(self) -> str:
        return self._block.words

    @property
    def is_exact(self) -> bool:
        return self._block.is_exact

    def settings(self) -> dict[str, Any]:
        return {"name": f"{self._block.settings()['name']} weighed by rows"}
