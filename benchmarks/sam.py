"""The two-step SAM of David Samuel (github.com/davda54/sam), written anew: the published yardstick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class TwoStepSAM(torch.optim.Optimizer):
    """Climbs to w + ρ g / ‖g‖, and steps the base optimizer from w along the gradient found there, tensor by tensor.

    Args:
        base: an optimizer that holds the weights.
        rho: the radius.
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float) -> None:
        super().__init__(base.param_groups, {"rho": rho})
        self.base = base
        self.rho = rho

    @torch.no_grad()
    def first_step(self) -> None:
        """To w + ε."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        length = torch.stack([p.grad.norm(p=2) for p in weights]).norm(p=2)  # type: ignore[union-attr]
        scale = self.rho / (length + 1e-12)
        for p in weights:
            self.state[p]["before"] = p.detach().clone()
            p.add_(p.grad * scale)  # type: ignore[operator]
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Back to w, and on."""
        for group in self.param_groups:
            for p in group["params"]:
                if "before" in self.state[p]:
                    p.copy_(self.state[p]["before"])
        self.base.step()
        self.zero_grad()

    def step(self, closure: Callable[[], Tensor]) -> Any:  # type: ignore[override]
        """Both, with a closure that returns the loss."""
        loss = closure()
        loss.backward()
        self.first_step()
        closure().backward()
        self.second_step()
        return loss.detach()
