"""XTrace: every probe is tried against the range that all the others have found."""

from __future__ import annotations

import torch

from landscape.estimators import Estimation, Estimator, Samples, Source
from landscape.measures import Measure, Pair
from landscape.orthonormal import gaussian, orthonormal
from landscape.precision import widest


class XTrace(Estimator):
    """The mean over i of tr Q_i'HQ_i + (dim − k + 1)/‖u_i‖² · u_i'Hu_i, with Q_i a basis of H ω_j, j ≠ i.

    There u_i = (I − Q_iQ_i') ω_i, for k normal vectors ω and 2k products. The estimates share their ω, so that their
    spread says too little; the standard error is the jackknife over the probes, which overstates on average (Efron and
    Stein 1981): on trained networks by a half, where eigenvalues decay fast by more.

    Keeps 3/2 vectors of the size of the weights per product, and takes five for a moment at the end. Source: Epperly,
    Tropp and Webber 2024, arXiv 2301.07825; the jackknife: Epperly and Tropp 2024, arXiv 2207.06342.
    """

    minimum = 4

    def begin(self, source: Source, measure: Measure) -> Estimation:
        """A new estimate."""
        return _Exchangeable(source, measure)


class _Exchangeable(Estimation):
    """ω, a basis Q of H ω, the images H Q, and R with H ω = Q R."""

    def __init__(self, source: Source, measure: Measure) -> None:
        super().__init__(source, measure)
        none = source.like.new_empty(len(source.like), 0)
        self._probes, self._basis = none, Pair(none, none)
        self._R = torch.zeros(0, 0, dtype=torch.float64, device="cpu")

    def spend(self, budget: int) -> None:
        """Two products for each probe."""
        old = self._probes.shape[1]
        if (new := min(budget // 2, len(self.source.like) - 1) - old) <= 0:
            return
        probes = gaussian(new, like=self.source.like, generator=self.source.generator)
        images = self.multiplied(probes).images
        basis = self.multiplied(orthonormal(images, self._basis.vectors, generator=self.source.generator))
        self._probes = torch.cat([self._probes, probes], dim=1)
        self._basis = Pair(*(torch.cat(parts, dim=1) for parts in zip(self._basis, basis, strict=True)))
        grown = torch.zeros(old + new, old + new, dtype=torch.float64, device="cpu")
        grown[:old, :old] = self._R
        grown[:, old:] = (self._basis.vectors.T @ images).cpu().double()
        self._R = grown

    def samples(self) -> Samples:
        """The estimate of each probe, and the whole estimate without each probe.

        Without probe i the range loses one direction, Q s_i with s_i ⟂ R_l for l ≠ i; without i and j it loses the
        span of Q s_i and Q e_ij, e_ij the part of s_j orthogonal to s_i. All sums over pairs are products of matrices.
        """
        count, dim, measure = self._R.shape[1], len(self.source.like), self.measure
        # Where R is singular no direction is lost; a push at the level of rounding picks some s_i all the same.
        push = torch.finfo(self._basis.vectors.dtype).eps * self._R.abs().max()
        push = torch.copysign(torch.where(push > 0, push, 1), self._R.diagonal())
        S = torch.linalg.inv(self._R + push.diag()).T
        S = S / torch.linalg.vector_norm(S, dim=0)
        W = (self._basis.vectors.T @ self._probes).cpu().double()
        SW = S.T @ W  # s_i'W_l
        inside = W - S * SW.diagonal()
        removed = self._basis.through(S)  # s
        left = Pair(  # u
            self._probes - self._basis.vectors @ inside.to(self._probes),
            self._basis.through(self._R).vectors - self._basis.images @ inside.to(self._probes),
        )
        lengths = left.vectors.square().sum(dim=0, dtype=widest(left.vectors.device)).cpu().double()
        whole = measure(self._basis, self._basis).sum(dim=1, keepdim=True)
        ss, uu = measure(removed, removed), measure(left, left)
        values = whole - ss + (dim - count + 1) / lengths * uu

        off = 1 - torch.eye(count, dtype=torch.float64, device="cpu")
        cosine = off * (S.T @ S)  # [i, j]
        inverse = off / (1 - cosine.square()).clamp(min=1e-12).sqrt()
        c = inverse * (SW.T - cosine * SW.diagonal()[:, None])  # e_ij'W_i
        scale = off * (dim - count + 2) / (lengths[:, None] + c.square())
        kappa, tau = (scale * c.square() - 1) * inverse.square(), scale * c * inverse
        total = (
            ss @ (kappa * cosine.square() - off)
            + uu @ scale
            - 2 * measure(left, removed) @ (tau * cosine)
            + ss * kappa.sum(dim=0)
            - 2 * measure(removed, removed.through(kappa * cosine))
            + 2 * measure(removed, left.through(tau))
        )
        return Samples(values, whole + total / (count - 1))
