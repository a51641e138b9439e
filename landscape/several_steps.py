"""An ascent that looks at the gradient more than once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.arguments import integer, real
from landscape.perturbations import Ascent, Perturbation, Slopes


class SeveralSteps(Perturbation):
    """Projected ascent: ε_0 = 0, ε_{k+1} = project(ε_k + step of another ascent from the gradient at w + ε_k).

    Each step is the other ascent's own, shortened to a share of its radius, and is followed by the projection onto
    its ball of radius ρ: L2, Linf, scaled by |w| + η or not; scales are taken at w. One step is the other ascent bit
    for bit. In mSAM every further step costs a forward and a backward pass. Projected ascent is used for sharpness
    with p-balls and scales by Andriushchenko et al. 2023 (arXiv 2302.07011).

    Args:
        perturbation: the ascent whose steps are taken; its ``rho`` is the radius.
        steps: n ≥ 1.
        step: length of a step as a share of ρ; 1/n when left out, so that the steps just reach the sphere.

    Raises:
        TypeError: if the perturbation is no ascent that climbs by gradients.
        ValueError: if there are fewer steps than one, or their length is not positive and finite.

    >>> from landscape.perturbations import GradientAscent
    >>> climb = SeveralSteps(GradientAscent(rho=1.0), steps=2)
    >>> climb.search([torch.zeros(2)], lambda e: [torch.tensor([[1.0, 0.0], [0.0, 1.0]][e is not None])])
    [tensor([0.5000, 0.5000])]
    """

    def __init__(self, perturbation: Ascent, *, steps: int, step: float | None = None) -> None:
        if not isinstance(perturbation, Ascent) or not perturbation.needs_gradient:
            raise TypeError(
                f"perturbation must be an ascent by gradients, such as GradientAscent; got {perturbation!r}"
            )
        self.perturbation = perturbation
        self.steps = integer(steps, "steps")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {steps}")
        self.step = 1 / self.steps if step is None else real(step, "step")
        if not 0 < self.step < float("inf"):
            raise ValueError(f"step must be a positive share of rho; got {step}")

    def search(self, weights: list[Tensor], slopes: Slopes, *, key: tuple[int, ...] = ()) -> list[Tensor]:
        """ε after all steps; it looks at as many gradients."""
        del key
        ascent, rho = self.perturbation, self.perturbation.rho
        with torch.no_grad():
            scales = ascent.scales(weights)
        epsilon: list[Tensor] | None = None
        for done in range(1, self.steps + 1):
            gradients = slopes(epsilon)
            with torch.no_grad():
                move = ascent.ball.steepest(ascent.uphill(gradients), rho * self.step, scales)
                epsilon = move if epsilon is None else list(torch._foreach_add(epsilon, move))
                if done * self.step > 1:  # fewer steps cannot have left the ball, and keep their bits
                    epsilon = ascent.ball.project(epsilon, rho, scales)
        assert epsilon is not None
        return epsilon

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ε where one step is all.

        Raises:
            TypeError: if there are more, which need gradients at other weights.
        """
        if self.steps > 1:
            raise TypeError(f"{self!r} looks at {self.steps} gradients; call search(weights, slopes)")
        return self.search(weights, lambda _: gradients)

    @property
    def rho(self) -> float:
        """The radius ρ of the ascent; schedules change it."""
        return self.perturbation.rho

    @rho.setter
    def rho(self, value: float) -> None:
        """Change it."""
        self.perturbation.rho = value

    @property
    def is_zero(self) -> bool:
        """Whether the radius is zero."""
        return self.perturbation.is_zero

    @property
    def learns(self) -> bool:
        """Whether the ascent does."""
        return self.perturbation.learns

    def learn(self, gradients: list[Tensor]) -> None:
        """Pass on to the ascent."""
        self.perturbation.learn(gradients)

    def state_dict(self) -> dict[str, Any]:
        """What the ascent has learnt."""
        return self.perturbation.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pass on to the ascent."""
        self.perturbation.load_state_dict(state)

    def settings(self) -> dict[str, float | str]:
        """Those of the ascent, the number of steps and their length; of one whole step, those of the ascent alone."""
        if self.steps == self.step == 1:
            return self.perturbation.settings()
        return self.perturbation.settings() | {"steps": self.steps, "step": self.step}

    def __repr__(self) -> str:
        return f"SeveralSteps({self.perturbation!r}, steps={self.steps}, step={self.step})"
