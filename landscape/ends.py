"""Which eigenvalues are wanted: those at one end of the spectrum, at both, or the largest in magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Which = Literal["LA", "SA", "LM", "BE"]
WORDS = "'LA' (largest), 'SA' (smallest), 'LM' (largest magnitude) or 'BE' (half from each end)"


@dataclass(frozen=True)
class Ends:
    """The ``k`` eigenvalues at the ends that ``which`` names, and how many more are looked at."""

    which: Which
    k: int
    more: int = 0

    def places(self, values: Tensor) -> Tensor:
        """Where the wanted ones are among values in ascending order, in the order asked for."""
        if self.which == "LM":
            return torch.argsort(-values.abs(), stable=True)[: self.k + self.more]
        high, low = self._each
        high, low = (number + self.more if number else 0 for number in (high, low))
        order = torch.arange(len(values) - 1, -1, -1, device="cpu")  # descending
        if len(values) > high + low:
            order = torch.cat([order[:high], order[len(order) - low :]])
        return order.flip(0) if self.which == "SA" else order

    def borders(self, found: Tensor, allowed: Tensor) -> list[tuple[float, float]]:
        """Where copies of the wanted eigenvalues could hide and change the answer.

        Each is (sign, μ): a copy of an eigenvalue with sign · value ≥ sign · μ would push another one out of the
        answer. Copies of the outermost one asked for do not.

        Args:
            found: the k values, ``(k,)``.
            allowed: what each may be off.
        """
        if self.which == "LM":
            least = _next(found.abs(), allowed)
            return [] if least is None else [(1.0, least), (-1.0, -least)]
        high, _ = self._each
        borders = []
        for sign, part, slack in ((1.0, found[:high], allowed[:high]), (-1.0, -found[high:], allowed[high:])):
            least = _next(part, slack)
            if least is not None:
                borders.append((sign, sign * least))
        return borders

    def outside(self, found: Tensor, allowed: Tensor) -> list[tuple[float, float]]:
        """Just beyond the outermost values found, where a larger one would make the answer wrong: (sign, μ) likewise.

        Args:
            found: the k values, ``(k,)``.
            allowed: what each may be off.
        """
        if self.which == "LM":
            most = float((found.abs() + allowed).max())
            return [(1.0, most), (-1.0, -most)]
        high, low = self._each
        beyond = [(1.0, float((found + allowed).max()))] if high else []
        return beyond + ([(-1.0, float((found - allowed).min()))] if low else [])

    @property
    def _each(self) -> tuple[int, int]:
        return {"LA": (self.k, 0), "SA": (0, self.k), "BE": (self.k - self.k // 2, self.k // 2)}[self.which]


def _next(values: Tensor, allowed: Tensor) -> float | None:
    """The smallest of the values that lies above the least one by more than is allowed."""
    if not len(values):
        return None
    least = int(values.argmin())
    above = values[values > values[least] + allowed[least]]
    return float(above.min()) if len(above) else None
