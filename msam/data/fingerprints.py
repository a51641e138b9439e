"""What examples are, in a few hashes and numbers that a file can hold, and whether two sets of them are the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.batches import Batch, map_tensors, num_examples, tensors
from landscape.fingerprint import Fingerprint

AT_A_TIME = 100  # examples that are read together, whose numbers are held in double precision meanwhile
_KINDS = {"examples": int, "content": str, "order": str, "rest": str, "sums": list}
_SUMS = 4
_ROUNDING = 1e-5  # of the norm: what is computed anew by other kernels, or by more threads, is nearer than that


def fingerprint_of(batches: Iterable[Batch]) -> dict[str, Any]:
    """What examples are.

    Returns:
        ``examples``, their number; ``content`` and ``order``, see :class:`landscape.fingerprint.Fingerprint`; and what
        shows whether they are others but for rounding: ``rest``, a hash of all in their order but floating-point
        numbers, and ``sums`` for each tensor of those: its norm, and Σ_ij s_i t_j x_ij for four pairs of random signs,
        which a change Δ moves by about ‖Δ‖.
    """
    whole, rest, number = Fingerprint(), Fingerprint(), 0
    sums: dict[int, Tensor] = {}
    of_rows = torch.Generator().manual_seed(0)
    for batch in batches:
        whole.add(batch)
        rest.add(map_tensors(_without_numbers, batch))
        size = num_examples(batch)
        number += size
        rows = _signs(size, of_rows)
        for place, tensor in enumerate(filter(_has_numbers, tensors(batch))):
            flat = tensor.detach().cpu().double().reshape(size, math.prod(tensor.shape[1:]))
            columns = _signs(flat.shape[1], torch.Generator().manual_seed(1 + place))
            found = torch.cat([flat.square().sum().reshape(1), (rows * (flat @ columns)).sum(dim=0)])
            sums[place] = sums.get(place, 0) + found
    return {
        "examples": number,
        "content": whole.content,
        "order": whole.order,
        "rest": rest.order,
        "sums": [[math.sqrt(square), *signed] for square, *signed in (found.tolist() for found in sums.values())],
    }


def is_fingerprint(found: Any) -> bool:
    """Whether what a file holds can be one."""
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in _KINDS.items()):
        return False
    rows = found["sums"]
    whole = all(isinstance(row, list) and len(row) == 1 + _SUMS for row in rows)
    return whole and all(isinstance(value, int | float) for row in rows for value in row)


def same_but_for_rounding(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same examples, in one order, up to the last digits of their numbers."""
    if any(one[name] != other[name] for name in ("examples", "rest")) or len(one["sums"]) != len(other["sums"]):
        return False
    return all(
        abs(a - b) <= _ROUNDING * max(first[0], second[0])  # not where one is no number
        for first, second in zip(one["sums"], other["sums"], strict=True)
        for a, b in zip(first, second, strict=True)
    )


def _signs(number: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, (number, _SUMS), generator=generator, dtype=torch.float64, device="cpu")
    return 2 * drawn - 1


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 0


def _without_numbers(tensor: Tensor) -> Tensor:
    return tensor.new_empty(len(tensor), 0) if _has_numbers(tensor) else tensor
