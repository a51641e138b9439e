"""Images of one patch with a signal and others with noise, where what a network has learnt can be told apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msam.data.examples import Examples


@dataclass(frozen=True, eq=False)
class SignalAndNoise:
    """Examples of P patches, one of which is y μ and the others ξ (Chen et al. 2023, arXiv 2310.07269).

    The label y is -1 or +1 with the same chance, ξ is drawn from N(0, σ² I) for each example, and the place of the
    signal is drawn, too. Labels are then flipped with the chance that was asked for; the signal stays that of the true
    one.

    Attributes:
        examples: inputs ``(n, P, d)``, and targets ``(n,)``: 0 for y = -1 and 1 for y = +1, as observed.
        signal: μ, ``(d,)``.
        noises: ξ of each example, ``(n, d)``.
    """

    examples: Examples
    signal: Tensor = field(repr=False)
    noises: Tensor = field(repr=False)

    def alignments(self, filters: Tensor) -> dict[str, float]:
        """How far filters have turned to the signal, and to the noise of these examples.

        ``signal_alignment`` is ½ Σ_j max_r <w_jr, j μ> / ‖μ‖, and ``noise_alignment`` is
        (1/n) Σ_i max_r <w_(y_i)r, ξ_i> / ‖ξ_i‖, with y_i as observed: of the filters that speak for a class, the part
        along a direction of length one, in units of the weights. The first is what carries over to new examples.

        Args:
            filters: w, ``(2, m, d)``: those for y = -1, then those for y = +1.
        """
        filters = filters.detach().to(self.signal)
        signs = filters.new_tensor([-1.0, 1.0])
        along = (filters @ self.signal * signs[:, None]).amax(dim=1) / self.signal.norm()  # (2,)
        own = filters[self.examples.targets]  # (n, m, d)
        remembered = torch.einsum("imd,id->im", own, self.noises).amax(dim=1) / self.noises.norm(dim=1)  # (n,)
        return {"signal_alignment": float(along.mean()), "noise_alignment": float(remembered.mean())}

    def decomposed(self, filters: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The way that filters went in training, in parts along the signal and along each noise.

        w_jr - w_jr(0) = j γ_jr μ / ‖μ‖² + Σ_i ρ_jri ξ_i / ((P - 1) ‖ξ_i‖²) + rest. Gradients on these examples lie in
        that span, and so do the steps of SGD, SAM and mSAM without weight decay: the rest is rounding.

        Args:
            filters: w, ``(2, m, d)``.
            initial: w(0), ``(2, m, d)``.

        Returns:
            γ ``(2, m)``, ρ ``(2, m, n)``, and the length of the rest ``(2, m)``, in double precision.

        Raises:
            ValueError: if there are as many examples as dimensions, so that the parts are not unique.
        """
        number, d = self.noises.shape
        if number + 1 > d:
            raise ValueError(
                f"parts along {number} noises and a signal are not unique in {d} dimensions; draw fewer examples"
            )
        patches = self.examples.inputs.shape[1]
        signal, noises = self.signal.double(), self.noises.double()
        along = noises / ((patches - 1) * noises.square().sum(dim=1, keepdim=True))
        basis = torch.cat([(signal / signal.square().sum())[None], along])  # (n + 1, d)
        way = (filters.detach().double() - initial.detach().double()).to(signal.device)
        parts = torch.linalg.lstsq(basis.T, way.flatten(0, 1).T).solution.T.view(*way.shape[:2], -1)
        signs = parts.new_tensor([-1.0, 1.0])
        return parts[..., 0] * signs[:, None], parts[..., 1:], (way - parts @ basis).norm(dim=-1)


def signal_and_noise(
    number: int, *, signal: Tensor, noise: float = 1.0, patches: int = 2, label_noise: float = 0.0, seed: int
) -> SignalAndNoise:
    """Draw examples of a signal patch and noise patches; see :class:`SignalAndNoise`.

    Args:
        number: n, of examples.
        signal: μ, ``(d,)``.
        noise: σ, the deviation of each entry of ξ.
        patches: P, at least two.
        label_noise: the chance that a label is flipped, 0 to 1.
        seed: of all that is drawn.

    Raises:
        ValueError: if an argument is out of its range.
    """
    known = signal.ndim == 1 and bool(signal.isfinite().all()) and 0 < noise < math.inf
    if number < 1 or patches < 2 or not known or not 0 <= label_noise <= 1:
        raise ValueError(
            "signal patches take at least one example, two patches, a signal (d,), noise above 0, and label noise "
            f"from 0 to 1; got {number}, {patches}, {tuple(signal.shape)}, {noise} and {label_noise}"
        )
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, 2, (number,), generator=generator)
    place = torch.randint(0, patches, (number,), generator=generator)
    noises = noise * torch.randn(number, len(signal), generator=generator, dtype=torch.float64).to(signal)
    flipped = torch.rand(number, generator=generator) < label_noise
    inputs = noises[:, None].repeat(1, patches, 1)  # (n, P, d)
    inputs[torch.arange(number), place] = (2 * true[:, None] - 1) * signal
    return SignalAndNoise(Examples(inputs, torch.where(flipped, 1 - true, true)), signal, noises)
