"""Where to look for a higher loss near w: (weights, gradients) -> ε.

The perturbation that mSAM trains with and the one that m-sharpness measures are the same object.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from landscape.arguments import not_negative
from landscape.balls import L2, Ball
from landscape.denominators import name_of

Kind = TypeVar("Kind", bound="Perturbation")
Slopes = Callable[[list[Tensor] | None], list[Tensor]]


class Perturbation(ABC):
    """A rule that turns weights and the gradients there into a perturbation ε of the same shapes.

    Call it with lists of tensors, one per block of weights, or with two single tensors; a single vector is taken for
    a matrix of one row. Norms are over all blocks.
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
                shape = gradients.shape if gradients.ndim > 1 else (1, -1)
                return self.ascent([weights.reshape(shape)], [gradients.reshape(shape)])[0].reshape(gradients.shape)
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


def at_radius(perturbation: Kind, rho: float) -> Kind:
    """A copy of a perturbation, of another radius.

    Raises:
        TypeError: if it has no radius.
        ValueError: if the radius is negative or not finite.
    """
    if not hasattr(perturbation, "rho"):
        raise TypeError(f"radii are for perturbations that have one, as GradientAscent; got {perturbation!r}")
    other = copy.deepcopy(perturbation)
    other.rho = rho
    return other


def require_perturbation(value: object) -> None:
    """What is measured must be a perturbation.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, Perturbation):
        raise TypeError(f"perturbation must be one, such as GradientAscent(rho); got {value!r}")


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
        self._rho = not_negative(value, "rho")

    @property
    def is_zero(self) -> bool:
        """Whether the radius is zero."""
        return self.rho == 0


class Ascent(InBall):
    """The point of a ball that is steepest uphill.

    Args:
        rho: radius ρ ≥ 0, in the norm of the ball over all blocks.
        ball: what ε may lie in, ``L2()`` when left out.

    Raises:
        ValueError: if rho is negative or not finite.
        TypeError: if the ball is none.
    """

    def __init__(self, rho: float, *, ball: Ball | None = None) -> None:
        super().__init__(rho)
        if ball is not None and not isinstance(ball, Ball):
            raise TypeError(f"ball must be a Ball, such as L2() or Linf(); got {ball!r}")
        self.ball = L2() if ball is None else ball

    def uphill(self, gradients: list[Tensor]) -> list[Tensor]:
        """What is climbed: the gradient itself, unless a subclass makes something else of it."""
        return gradients

    def scales(self, weights: list[Tensor]) -> list[Tensor] | None:
        """The scales T of the ball, None for none."""
        del weights
        return None

    def ascent(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The steepest point of the ball, block by block."""
        return self.ball.steepest(self.uphill(gradients), self.rho, self.scales(weights))

    def settings(self) -> dict[str, float | str]:
        """Name and radius, and the ball where it is not L2."""
        ball = {} if type(self.ball) is L2 else {"ball": type(self.ball).__name__}
        return {"perturbation": type(self).__name__, "rho": self.rho, **ball}


class GradientAscent(Ascent):
    """ε = ρ g / ‖g‖₂, the ascent of SAM (Foret et al. 2021, arXiv 2010.01412); zero where the gradient is zero.

    In the ball ``Linf()`` it is ρ sign(g).

    Args:
        rho: radius ρ ≥ 0 in units of the weights' norm over all blocks.
        ball: what ε may lie in, ``L2()`` when left out.

    Raises:
        ValueError: if rho is negative or not finite.

    >>> GradientAscent(rho=0.5)(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([0.3000, 0.4000])
    """


def weights_proper(tensor: Tensor) -> bool:
    """Whether a tensor has two or more dimensions, unlike biases and the parameters of normalisation."""
    return tensor.ndim > 1


def every_tensor(tensor: Tensor) -> bool:
    """True."""
    del tensor
    return True


class AdaptiveAscent(Ascent):
    """ε = ρ T²g / ‖T g‖₂, the ascent of ASAM (Kwon et al. 2021, arXiv 2102.11600).

    T = |w| + η on the tensors that are scaled, and the identity on the rest. ε is zero where the gradient is zero. In
    the ball ``Linf()`` it is ρ T sign(g).

    Args:
        rho: radius ρ ≥ 0 of ‖ε / T‖, relative to the size of the weights. The source uses 0.5.
        eta: η ≥ 0, keeps weights near zero moving.
        ball: what ε / T may lie in, ``L2()`` when left out.
        scaled: tensor -> whether it is scaled, ``weights_proper`` when left out: tensors of two or more dimensions,
            not the vectors (biases and the parameters of normalisation). ``every_tensor`` scales them all. A single
            tensor passed instead of a list is scaled in either case.

    Raises:
        ValueError: if rho or eta is negative or not finite.

    >>> AdaptiveAscent(rho=1.0, eta=0.0)(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    tensor([0.6000, 1.6000])
    """

    def __init__(
        self,
        rho: float,
        *,
        eta: float = 0.01,
        ball: Ball | None = None,
        scaled: Callable[[Tensor], bool] = weights_proper,
    ) -> None:
        super().__init__(rho, ball=ball)
        self.eta = not_negative(eta, "eta")
        self.scaled = scaled

    def scales(self, weights: list[Tensor]) -> list[Tensor]:
        """T, block by block."""
        return [w.abs() + self.eta if self.scaled(w) else torch.ones_like(w) for w in weights]

    def settings(self) -> dict[str, float | str]:
        """Name, radius and η, the ball where it is not L2, and what is scaled where that is not the default."""
        scaled = {} if self.scaled is weights_proper else {"scaled": name_of(self.scaled)}
        return super().settings() | {"eta": self.eta, **scaled}
