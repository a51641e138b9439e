"""The plane in which a training moved most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from landscape.arguments import entries
from landscape.directions import FLATTEST, rounding_of, weights_of
from landscape.given import require_objective
from landscape.objective import Objective
from landscape.planes import Direction, Plane
from landscape.precision import doubled
from landscape.results import Array

_ENTRIES = 2**22  # of a piece of all the weights, 32 MiB in double precision


def trajectory_plane(objective: Objective, weights: Sequence[Direction], *, names: Sequence[str] = ()) -> Plane:
    """The plane through the final weights w in which a training moved most (Li et al. 2018, arXiv 1712.09913).

    As in their program, the directions are those of a principal component analysis of the rows wᵢ − w, which centres
    them: the eigenvectors of Σᵢ (wᵢ − w̄)(wᵢ − w̄)', with w̄ the mean of the path, so that ``explained`` is a share of its
    variance. The plane is laid through w, as every slice is, and w is the origin of its coordinates: ``path`` has
    (wᵢ − w)·d₁ and (wᵢ − w)·d₂, and ``path_distances`` the distances of wᵢ from that very plane. If w is on the path,
    they are all zero just where ``explained`` sums to one.

    The directions are orthogonal and of length 1, so that distances in the plane are distances in weight space; their
    signs are such that the path begins on the positive side of both. They come from the n × n Gram matrix in double
    precision, piece by piece, so that the weights are held once and only as given. Large shares are nothing special:
    a long random walk in many dimensions has 61 % and 15 % (Antognini, Sohl-Dickstein 2018, arXiv 1806.08805).

    Args:
        objective: gives w, the final weights.
        weights: the checkpoints in the order of training, at least three, each ``(dim,)``; w itself is one of them, as
            a rule the last.
        names: of the checkpoints, for errors; counted from 0 when left out.

    Returns:
        A plane with path, distances and the share of the variance along each direction.

    Raises:
        ValueError: with fewer than three checkpoints, if one has another length or is not finite, or if all are the
            same or lie on one line up to rounding.

    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> data = [(torch.ones(1, 3).double(), torch.ones(1, 1).double())]
    >>> objective = Objective(model, torch.nn.functional.mse_loss, data)
    >>> steps = torch.tensor([[4.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> plane = trajectory_plane(objective, list(objective.weights + steps))
    >>> plane.path[:2].round(9).tolist(), plane.explained.sum().round(9).item(), plane.path_distances.round(9).tolist()
    ([[4.0, 0.0], [2.0, 1.0]], 1.0, [0.0, 0.0, 0.0])
    """
    steps = _Steps(objective, weights, names)
    rounding = rounding_of(objective) * len(steps.weights) ** 0.5
    centred = steps.centred_gram()
    squares, shares = torch.linalg.eigh(centred)  # ascending
    spreads = squares.flip(0)[:2].clamp(min=0).sqrt()  # singular values of the centred path
    if float(spreads[0]) <= rounding:
        raise ValueError("all checkpoints of the trajectory have the same weights; there is no path to draw")
    if float(spreads[1]) <= max(rounding, FLATTEST * float(spreads[0])):
        raise ValueError(
            "the checkpoints of the trajectory lie on one line and span no plane; look along that line, from the first "
            "to the last of them"
        )
    directions = steps.combined(shares.flip(1)[:, :2].T / spreads[:, None])  # (2, dim)
    directions[0] /= directions[0].norm()
    directions[1] -= (directions[1] @ directions[0]) * directions[0]  # digits lost where the first explains nearly all
    directions[1] /= directions[1].norm()
    path = steps.coordinates(directions)  # (n, 2)
    far = path.abs() > path.abs().max(dim=0).values / 3  # not near zero, where the sign would be one of rounding
    start = path.gather(0, far.int().argmax(dim=0, keepdim=True))  # (1, 2)
    signs = torch.where(start < 0, -1.0, 1.0).to(path)
    path, directions = path * signs, directions * signs.T
    distances = steps.distances(directions, path)
    explained = (path - path.mean(dim=0)).square().sum(dim=0) / centred.trace()
    return Plane(
        (directions[0].to(objective.weights), directions[1].to(objective.weights)),
        path=_numpy(path),
        path_distances=_numpy(distances),
        explained=_numpy(explained),
    )


class _Steps:
    """The steps wᵢ − w, one row each, which are looked at piece by piece in double precision."""

    def __init__(self, objective: Objective, weights: Sequence[Direction], names: Sequence[str]) -> None:
        require_objective(objective)
        weights = entries(weights, "weights")
        if len(weights) < 3:
            raise ValueError(f"a trajectory needs at least three checkpoints to span a plane; got {len(weights)}")
        if names and len(names) != len(weights):
            raise ValueError(f"names must have one entry for each of {len(weights)} checkpoints; got {len(names)}")
        self.origin, self._like = objective.weights, doubled(objective.weights[:1])
        called = names or [f"checkpoint {i} of the trajectory" for i in range(len(weights))]
        self.weights = [weights_of(objective, one, name=name) for one, name in zip(weights, called, strict=True)]

    def _pieces(self) -> Iterator[tuple[slice, Tensor]]:
        dim, width = len(self.origin), max(1, _ENTRIES // len(self.weights))
        for start in range(0, dim, width):
            piece = slice(start, start + width)
            rows = torch.stack([one[piece].to(self._like) for one in self.weights])
            yield piece, rows - doubled(self.origin[piece])

    def centred_gram(self) -> Tensor:
        """(wᵢ − w̄)·(wⱼ − w̄), ``(n, n)``."""
        found = self._like.new_zeros(len(self.weights), len(self.weights))
        for _, rows in self._pieces():
            rows = rows - rows.mean(dim=0)
            found += rows @ rows.T
        return found

    def combined(self, shares: Tensor) -> Tensor:
        """Σᵢ cᵢ (wᵢ − w̄) for each row c of the shares, ``(k, dim)``."""
        found = self._like.new_empty(len(shares), len(self.origin))
        for piece, rows in self._pieces():
            found[:, piece] = shares @ (rows - rows.mean(dim=0))  # the mean adds nothing but rounding
        return found

    def coordinates(self, directions: Tensor) -> Tensor:
        """(wᵢ − w)·d for each direction, ``(n, k)``."""
        found = self._like.new_zeros(len(self.weights), len(directions))
        for piece, rows in self._pieces():
            found += rows @ directions[:, piece].T
        return found

    def distances(self, directions: Tensor, coordinates: Tensor) -> Tensor:
        """‖wᵢ − w − Σ x d‖, ``(n,)``: by the difference itself, which is exact to the last digits near zero."""
        squares = self._like.new_zeros(len(self.weights))
        for piece, rows in self._pieces():
            squares += (rows - coordinates @ directions[:, piece]).square().sum(dim=1)
        return squares.sqrt()


def _numpy(values: Tensor) -> Array:
    found: Array = values.cpu().numpy()
    return found
