"""What the weights step along on one micro-batch: (w, losses and gradients near w) -> a direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

from torch import Tensor

from landscape.centralized import centralized
from landscape.perturbations import Perturbation

Shift = list[Tensor | None] | None
Probe = Callable[[Shift], tuple[Tensor, list[Tensor]]]


class Descent(ABC):
    """A rule that turns the losses and gradients of a micro-batch, at w and near it, into the direction of a step."""

    @abstractmethod
    def direction(
        self, weights: list[Tensor], probe: Probe, *, perturbed: Sequence[bool], key: tuple[int, ...]
    ) -> list[Tensor]:
        """The direction, one tensor per block of weights.

        Args:
            weights: w, detached.
            probe: ε -> loss and gradient of the micro-batch at w + ε, for all blocks. None stands for ε = 0, in place
                of one block or of all. Blocks that the loss does not depend on have gradients of zero.
            perturbed: which blocks may be perturbed.
            key: names the micro-batch, (step, its number), for what is drawn at random.
        """

    rho: float  # the radius ρ, which schedules change

    @property
    def is_plain(self) -> bool:
        """Whether the direction is the gradient at w whatever the loss, so that the base optimizer is left as it is."""
        return False

    @property
    def needs_gradient(self) -> bool:
        """Whether the gradient at w is asked for."""
        return True

    @property
    def draws(self) -> bool:
        """Whether the direction depends on the key."""
        return False

    @property
    def learns(self) -> bool:
        """Whether it goes by the gradients of earlier steps."""
        return False

    def learn(self, gradient: list[Tensor], *, perturbed: Sequence[bool]) -> None:  # noqa: B027  most do not
        """Take in the mean gradient of a batch at w, once per step.

        Args:
            gradient: one tensor per block of weights.
            perturbed: which blocks may be perturbed.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, of tensors and numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another has learnt."""
        if state:
            raise ValueError(f"{self!r} has no state, but the state dict holds one: {', '.join(state)}")

    @abstractmethod
    def settings(self) -> dict[str, float | str]:
        """Name and parameters, for a manifest."""


class Perturbed(Descent):
    """What descents along a gradient at w + ε have in common: they are as random, and learn as much, as their ε.

    Args:
        perturbation: finds ε.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def gradient_at_perturbation(
        self, weights: list[Tensor], probe: Probe, *, perturbed: Sequence[bool], key: tuple[int, ...]
    ) -> list[Tensor]:
        """∇L(w + ε)."""

        def slopes(epsilon: list[Tensor] | None) -> list[Tensor]:
            return chosen(probe(None if epsilon is None else spread(epsilon, perturbed))[1], perturbed)

        # ε is nowhere else, so that the probe may let go of it when the weights are where it leads.
        return probe(spread(self.perturbation.search(chosen(weights, perturbed), slopes, key=key), perturbed))[1]

    @property
    def rho(self) -> float:
        """The radius of the perturbation.

        Raises:
            AttributeError: if it has none.
        """
        return self.perturbation.rho  # type: ignore[attr-defined,no-any-return]

    @rho.setter
    def rho(self, value: float) -> None:
        """Change it."""
        self.perturbation.rho = value  # type: ignore[attr-defined]

    @property
    def needs_gradient(self) -> bool:
        """Whether the perturbation does."""
        return self.perturbation.needs_gradient

    @property
    def draws(self) -> bool:
        """Whether the perturbation does."""
        return self.perturbation.draws

    @property
    def learns(self) -> bool:
        """Whether the perturbation does."""
        return self.perturbation.learns

    def learn(self, gradient: list[Tensor], *, perturbed: Sequence[bool]) -> None:
        """Pass on to the perturbation what is perturbed."""
        if any(perturbed):  # not where all that is perturbed is frozen
            self.perturbation.learn(chosen(gradient, perturbed))

    def state_dict(self) -> dict[str, Any]:
        """What the perturbation has learnt."""
        return self.perturbation.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pass on to the perturbation."""
        self.perturbation.load_state_dict(state)

    def settings(self) -> dict[str, float | str]:
        """Those of the perturbation."""
        return self.perturbation.settings()


class AtPerturbation(Perturbed):
    """The gradient at w + ε: SAM and its relatives.

    Args:
        perturbation: finds ε.
    """

    def direction(
        self, weights: list[Tensor], probe: Probe, *, perturbed: Sequence[bool], key: tuple[int, ...]
    ) -> list[Tensor]:
        """∇L(w + ε)."""
        return self.gradient_at_perturbation(weights, probe, perturbed=perturbed, key=key)

    @property
    def is_plain(self) -> bool:
        """Whether the radius is zero."""
        return self.perturbation.is_zero

    def __repr__(self) -> str:
        return repr(self.perturbation)


class CentralizedDescent(Perturbed):
    """c(∇L(w + ε)), the descent of GCSAM (Hassan et al. 2025, arXiv 2501.11584).

    c takes from every tensor of two or more dimensions its mean over all dimensions but the first. At radius zero it
    is gradient centralisation alone (Yong et al. 2020, arXiv 2004.01461).

    Args:
        perturbation: finds ε; for GCSAM a ``CentralizedAscent``.

    >>> import torch
    >>> from landscape import CentralizedAscent
    >>> from msam import mSAM
    >>> w = torch.nn.Parameter(torch.zeros(1, 2))
    >>> sgd, gcsam = torch.optim.SGD([w], lr=1.0), CentralizedDescent(CentralizedAscent(rho=0.05))
    >>> loss = mSAM(sgd, gcsam).step(lambda x: (x @ w.T).mean(), torch.tensor([[5.0, 3.0]]))
    >>> w.tolist()
    [[-1.0, 1.0]]
    """

    def direction(
        self, weights: list[Tensor], probe: Probe, *, perturbed: Sequence[bool], key: tuple[int, ...]
    ) -> list[Tensor]:
        """c(∇L(w + ε))."""
        if self.perturbation.is_zero:
            return centralized(probe(None)[1])
        return centralized(self.gradient_at_perturbation(weights, probe, perturbed=perturbed, key=key))

    @property
    def needs_gradient(self) -> bool:
        """Whether the perturbation does, or the radius is zero."""
        return self.perturbation.is_zero or self.perturbation.needs_gradient

    def settings(self) -> dict[str, float | str]:
        """Those of the perturbation, and what is done to the gradient."""
        return super().settings() | {"descent": type(self).__name__}

    def __repr__(self) -> str:
        return f"CentralizedDescent({self.perturbation!r})"


def descent_of(perturbation: Perturbation | Descent | None) -> Descent | None:
    """What steps along the gradient at a perturbation; a descent is one itself.

    Raises:
        TypeError: if it is something else.
    """
    if perturbation is not None and not isinstance(perturbation, Perturbation | Descent):
        raise TypeError(f"perturbation must be a Perturbation or None; got {type(perturbation).__name__}")
    return AtPerturbation(perturbation) if isinstance(perturbation, Perturbation) else perturbation


def chosen(blocks: Sequence[Tensor], perturbed: Sequence[bool]) -> list[Tensor]:
    """The blocks that may be perturbed."""
    return list(compress(blocks, perturbed))


def spread(epsilon: Sequence[Tensor], perturbed: Sequence[bool]) -> list[Tensor | None]:
    """The reverse of :func:`chosen`, None elsewhere."""
    values = iter(epsilon)
    return [next(values) if is_perturbed else None for is_perturbed in perturbed]
