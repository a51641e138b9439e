"""Which random numbers the second pass of a micro-batch draws, such as the masks of dropout: an explicit choice."""

from __future__ import annotations

from abc import ABC, abstractmethod

from msam.replay import RandomState


class DropoutPolicy(ABC):
    """What the passes of a micro-batch at perturbed weights draw, when the pass at w has drawn its numbers."""

    @abstractmethod
    def before_another_pass(self, first: RandomState) -> None:
        """Set the random state of the process; ``first`` is the one that the pass at w began with."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SameMasks(DropoutPolicy):
    """Every pass draws what the pass at w drew: one network is perturbed, and the one perturbed is descended on.

    That is the method: ε_i and h_i = ∇L_{S_i}(w + ε_i) are of one function L_{S_i}.
    """

    def before_another_pass(self, first: RandomState) -> None:
        """Go back to where the pass at w began."""
        first.restore()


class FreshMasks(DropoutPolicy):
    """Every pass draws anew: what a loop of two plain forward passes does, as most implementations of SAM for torch.

    ε_i is then that of one thinned network, and the gradient that of another. It is there to compare with these, and to
    tell what the choice of masks matters.
    """

    def before_another_pass(self, first: RandomState) -> None:
        """Go on drawing."""
        del first
