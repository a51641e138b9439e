"""A schedule for the radius of the perturbation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from landscape.arguments import integer, not_negative, real
from msam.optimizer import mSAM


class RhoScheduler:
    """ρ ← factor(n) · ρ_0 after n steps of the schedule, as torch's ``LambdaLR`` does for learning rates.

    ρ_0 is the radius when the schedule is made, and factor(0) is applied at once. At radius zero mSAM is its base
    optimizer and takes one pass, so that a warm-up costs nothing.

    Args:
        optimizer: the mSAM whose radius is to change.
        factor: number of steps of the schedule -> what ρ_0 is multiplied by, zero or more.

    Attributes:
        steps: the number of steps of the schedule.

    Raises:
        TypeError: if the optimizer is not an mSAM.
        ValueError: if what it steps along has no radius, or a radius comes out negative or not finite.

    >>> import torch
    >>> from landscape.perturbations import GradientAscent
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> schedule = RhoScheduler(mSAM(sgd, GradientAscent(rho=0.5)), lambda n: min(1.0, n / 2))
    >>> schedule.rho
    0.0
    >>> schedule.step()
    >>> schedule.rho
    0.25
    """

    def __init__(self, optimizer: mSAM, factor: Callable[[int], float]) -> None:
        if not isinstance(optimizer, mSAM):
            raise TypeError(f"optimizer must be an mSAM; got {type(optimizer).__name__}")
        rho = getattr(optimizer.descent, "rho", None)
        if optimizer.descent is None or rho is None:
            raise ValueError(f"{optimizer.descent!r} has no radius to change; use a perturbation with a rho")
        self._descent = optimizer.descent
        self._factor = factor
        self._first = float(rho)
        self.steps = 0
        self._apply()

    @property
    def rho(self) -> float:
        """The radius now."""
        return self._descent.rho

    def step(self) -> None:
        """Go to the next radius; call it after the optimizer's step, once per step or once per epoch."""
        self.steps += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The steps taken and ρ_0. The factor, a function, is not in it."""
        return {"steps": self.steps, "first_rho": self._first}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another schedule stood, with this one's factor.

        Raises:
            TypeError, ValueError: if it is the state of something else; nothing is then changed.
        """
        if set(state_dict) != {"steps", "first_rho"}:
            raise ValueError(f"this is not the state of a RhoScheduler: it holds {', '.join(map(str, state_dict))}")
        steps = integer(state_dict["steps"], "steps", least=0)
        first = not_negative(state_dict["first_rho"], "first_rho")
        self.steps, self._first = steps, first
        self._apply()

    def _apply(self) -> None:
        self._descent.rho = self._first * real(self._factor(self.steps), "what factor returns")
