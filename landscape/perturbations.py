"""Where to look for a higher loss near w: (weights, gradients) -> ε.

The perturbation that mSAM trains with and the one that m-sharpness measures are the same object.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from landscape.arguments import real

Slopes = Callable[[list[Tensor] | None], list[Tensor]]


class Perturbation(ABC):
    """A rule that turns weights and the gradients there into a perturbation ε of the same shapes.

    Call it with lists of tensors, one per block of weights, or with two single tensors. Norms are over all blocks.
    """

    @overload
    def __call__(self, weights: Tensor, gradients: Tensor) -> Tensor: ...

    @overload
    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]: ...

    def __call__(
        self, weights: Tensor | Sequence[Tensor], gradients: Tensor | Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        """ε for these weights and gradients; new tensors, detached."""
        with torch.no_grad():
            if isinstance(gradients, Tensor):
                if not isinstance(weights, Tensor):
                    raise TypeError("weights and gradients must both be tensors or both be lists of tensors")
                return self.ascent([weights.unsqueeze(0)], [gradients.unsqueeze(0)])[0].squeeze(0)
            if len(weights) != len(gradients):
                raise ValueError(f"there are {len(weights)} blocks of weights but {len(gradients)} gradients")
            return self.ascent(list(weights), list(gradients))

    @abstractmethod
    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ε, one tensor per block."""

    def search(self, weights: list[Tensor], slopes: Slopes, *, key: tuple[int, ...] = ()) -> list[Tensor]:
        """ε, with as many looks at gradients as it takes.

        Args:
            weights: w, one tensor per block, detached.
            slopes: ε -> the gradient at w + ε, one tensor per block; None stands for ε = 0.
            key: names the data that the gradients are of; what is drawn at random is drawn anew for each key.
        """
        del key
        return self(weights, slopes(None))

    @property
    def is_zero(self) -> bool:
        """Whether ε is zero whatever the gradients, so that a second pass would repeat the first."""
        return False

    @property
    def needs_gradient(self) -> bool:
        """Whether ε depends on the gradient at w."""
        return True

    @property
    def draws(self) -> bool:
        """Whether ε depends on the key of :meth:`search`."""
        return False

    @property
    def learns(self) -> bool:
        """Whether ε depends on what :meth:`learn` was told."""
        return False

    def learn(self, gradients: list[Tensor]) -> None:  # noqa: B027  most have nothing to learn
        """Take in the mean gradient of a step at w; mSAM calls this once per step, after it."""

    def state_dict(self) -> dict[str, Any]:
        """What has been learnt, of tensors and numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was learnt.

        Raises:
            ValueError: if the state is that of another perturbation.
        """
        if state:
            raise ValueError(f"{self!r} has no state, but the state dict holds one: {', '.join(state)}")

    def __repr__(self) -> str:
        name, *rest = self.settings().items()
        return f"{name[1]}({', '.join(f'{key}={value}' for key, value in rest)})"

    @abstractmethod
    def settings(self) -> dict[str, float | str]:
        """Name and parameters, for a manifest."""


class InBall(Perturbation):
    """A perturbation of a given length.

    Args:
        rho: radius ρ ≥ 0.

    Raises:
        ValueError: if rho is negative or not finite.
    """

    def __init__(self, rho: float) -> None:
        self.rho = rho

    @property
    def rho(self) -> float:
        """The radius ρ; schedules change it."""
        return self._rho

    @rho.setter
    def rho(self, value: float) -> None:
        """Change it."""
        self._rho = _radius(value)

    @property
    def is_zero(self) -> bool:
        """Whether the radius is zero."""
        return self.rho == 0


class GradientAscent(InBall):
    """ε = ρ g / ‖g‖₂, the ascent of SAM (Foret et al. 2021, arXiv 2010.01412); zero where the gradient is zero.

    Args:
        rho: radius ρ ≥ 0 in units of the weights' L2 norm over all blocks.

    Raises:
        ValueError: if rho is negative or not finite.

    >>> GradientAscent(rho=0.5)(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([0.3000, 0.4000])
    """

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ρ g / ‖g‖₂, block by block."""
        del weights
        return list(torch._foreach_mul(gradients, self.factor(norm(gradients))))

    def factor(self, length: Tensor) -> Tensor:
        """What the gradient is multiplied by when its norm is ``length``, elementwise."""
        return _over(self.rho, length)

    def settings(self) -> dict[str, float | str]:
        """Name and radius."""
        return {"perturbation": type(self).__name__, "rho": self.rho}


class AdaptiveAscent(InBall):
    """ε = ρ T²g / ‖T g‖₂, the ascent of ASAM (Kwon et al. 2021, arXiv 2102.11600).

    T = |w| + η on tensors of two or more dimensions, the weights proper, and the identity on vectors (biases and the
    parameters of normalisation). A single tensor passed instead of a list counts as weights.

    Args:
        rho: radius ρ ≥ 0, relative to the weights.
        eta: η ≥ 0, keeps weights near zero moving.

    Raises:
        ValueError: if rho or eta is negative or not finite.

    >>> AdaptiveAscent(rho=1.0, eta=0.0)(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    tensor([0.6000, 1.6000])
    """

    def __init__(self, rho: float, *, eta: float = 0.01) -> None:
        super().__init__(rho)
        self.eta = _radius(eta, name="eta")

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """ρ T²g / ‖T g‖₂, block by block."""
        scales = [w.abs() + self.eta if w.ndim > 1 else torch.ones_like(w) for w in weights]
        scaled = torch._foreach_mul(gradients, scales)
        torch._foreach_mul_(scales, _over(self.rho, norm(list(scaled))))
        return list(torch._foreach_mul(scaled, scales))

    def settings(self) -> dict[str, float | str]:
        """Name, radius and η."""
        return {"perturbation": type(self).__name__, "rho": self.rho, "eta": self.eta}


def norm(blocks: Sequence[Tensor]) -> Tensor:
    """‖·‖₂ over all entries of all blocks, a scalar tensor."""
    length: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(blocks)))))
    return length


def _over(rho: float, length: Tensor) -> Tensor:
    return torch.where(length > 0, rho / length, 0)


def _radius(value: float, *, name: str = "rho") -> float:
    value = real(value, name)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, zero or more; got {value}")
    return value
