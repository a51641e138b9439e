"""Gradients without their mean over the inputs of each output."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from landscape.perturbations import Ascent


class CentralizedAscent(Ascent):
    """ε = ρ c(g) / ‖c(g)‖₂, the ascent of GCSAM (Hassan et al. 2025, arXiv 2501.11584).

    c takes from every tensor of two or more dimensions its mean over all dimensions but the first, which is that of
    the outputs (of the inputs for transposed convolutions); vectors stay. The norm is taken of what is left. GCSAM
    centralises what is stepped along, too: ``msam.CentralizedDescent(CentralizedAscent(rho))``.

    Args:
        rho: radius ρ ≥ 0 in units of the weights' norm over all blocks.
        ball: what ε may lie in, ``L2()`` when left out.

    Raises:
        ValueError: if rho is negative or not finite.

    >>> import torch
    >>> CentralizedAscent(rho=2.0)(torch.zeros(1, 4), torch.tensor([[5.0, 3.0, 5.0, 3.0]]))
    tensor([[ 1., -1.,  1., -1.]])
    """

    def uphill(self, gradients: list[Tensor]) -> list[Tensor]:
        """c(g)."""
        return centralized(gradients)


def centralized(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor of two or more dimensions less its mean over all but the first (Yong et al. 2020, arXiv 2004.01461).

    >>> import torch
    >>> centralized([torch.tensor([[5.0, 3.0], [1.0, 1.0]]), torch.tensor([7.0])])
    [tensor([[ 1., -1.],
            [ 0.,  0.]]), tensor([7.])]
    """
    return [g - g.mean(dim=tuple(range(1, g.ndim)), keepdim=True) if g.ndim > 1 else g for g in gradients]
