"""The ascent of Friendly SAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.arguments import not_negative, real
from landscape.balls import Ball
from landscape.perturbations import Ascent


class FriendlyAscent(Ascent):
    """ε = ρ d / ‖d‖₂ with d = g − σ μ, the ascent of Friendly SAM (Li et al. 2024, arXiv 2403.12350).

    μ is the running mean of the gradients of the steps before: μ ← λ μ + (1 − λ) g, starting from the first gradient.
    So d is what is peculiar to these examples, and the first step is SAM. mSAM teaches μ once per step, by the mean
    gradient at w over the whole batch; all micro-batches of a step see the μ of the steps before. Until something has
    been learnt, as where a fresh one is measured, it is SAM, and its settings say so.

    Args:
        rho: radius ρ ≥ 0 in units of the weights' norm over all blocks. The source uses 0.2 on CIFAR-100.
        sigma: σ ≥ 0, how much of the running mean is taken away; 0 is SAM.
        lam: 0 ≤ λ < 1, how slowly the running mean moves.
        ball: what ε may lie in, ``L2()`` when left out.

    Raises:
        ValueError: if rho or sigma is negative or not finite, or lam not in [0, 1).

    >>> ascent = FriendlyAscent(rho=1.0)
    >>> ascent(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    >>> ascent.learn([torch.tensor([[3.0, 0.0]])])
    >>> ascent(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([0., 1.])
    """

    def __init__(self, rho: float, *, sigma: float = 1.0, lam: float = 0.6, ball: Ball | None = None) -> None:
        super().__init__(rho, ball=ball)
        self.sigma = not_negative(sigma, "sigma")
        self.lam = real(lam, "lam")
        if not 0 <= self.lam < 1:
            raise ValueError(f"lam must be at least 0 and below 1; got {lam}")
        self.momentum: list[Tensor] | None = None

    def uphill(self, gradients: list[Tensor]) -> list[Tensor]:
        """g − σ μ.

        Raises:
            ValueError: if what was learnt is of weights of other shapes.
        """
        if self.momentum is None:
            return gradients
        return list(torch._foreach_sub(gradients, self._momentum_like(gradients), alpha=self.sigma))

    @property
    def learns(self) -> bool:
        """Yes."""
        return True

    def learn(self, gradients: list[Tensor]) -> None:
        """μ ← λ μ + (1 − λ) g."""
        with torch.no_grad():
            if self.momentum is None:
                self.momentum = [gradient.detach().clone() for gradient in gradients]
            else:
                self.momentum = list(torch._foreach_lerp(self._momentum_like(gradients), gradients, 1 - self.lam))

    def state_dict(self) -> dict[str, Any]:
        """μ, if there is one yet."""
        return {} if self.momentum is None else {"momentum": list(self.momentum)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over μ, or start anew from an empty state.

        Raises:
            ValueError: if the state is that of another perturbation.
        """
        if state and set(state) != {"momentum"}:
            raise ValueError(f"{self!r} has a momentum for its state, but the state dict holds {', '.join(state)}")
        self.momentum = [part.clone() for part in state["momentum"]] if state else None

    def settings(self) -> dict[str, float | str]:
        """Name, radius, σ, λ, and whether there is a running mean yet."""
        learnt = "none, so this is SAM" if self.momentum is None else "learnt"
        return super().settings() | {"sigma": self.sigma, "lam": self.lam, "momentum": learnt}

    def _momentum_like(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.momentum is not None
        if [part.shape for part in self.momentum] != [gradient.shape for gradient in gradients]:
            raise ValueError(
                f"{type(self).__name__} has learnt from gradients of {len(self.momentum)} blocks of other shapes than "
                f"these {len(gradients)}; use a fresh one for other weights, or where weights are frozen on the way"
            )
        return [part.to(gradient) for part, gradient in zip(self.momentum, gradients, strict=True)]
