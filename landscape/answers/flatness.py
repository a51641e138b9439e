"""Answers of other measures of flatness. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.answers.sharpness import Sampled, UnderNoise
from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class LowPassFlatness(UnderNoise):
    """The mean loss under normal noise in the weights.

    Attributes:
        samples: ``(num_draws,)``, the mean of the losses at w + δ and at w − δ, for each δ.
        sigma: standard deviation of the noise in each weight.
    """

    sigma: float

    title: ClassVar[str] = "low-pass flatness"
    measures, deviation = "flatness", "sigma"
    words = "mean loss under noise of σ = {}"


@dataclass(frozen=True, kw_only=True)
class KeskarSharpness(Sampled):
    """100 · (max L − L(w)) / (1 + L(w)) over a box around w: a lower bound, as the maximum that was found is one.

    Attributes:
        value: of all the weights; the mean over random subspaces, where there are some.
        stderr: over the subspaces; NaN without them, where nothing is left to chance but what was not found.
        samples: ``(n,)``, of each subspace.
        loss: L(w).
        epsilon: size of the box.
        subspace: dimensions of each subspace; None for all weights.
    """

    loss: float
    epsilon: float
    subspace: int | None = None

    title: ClassVar[str] = "Keskar's sharpness"

    def summary(self) -> dict[str, Any]:
        """Value and standard error."""
        found = {"sharpness": self.value, "stderr": self.stderr, "epsilon": self.epsilon}
        return found | {"subspace": self.subspace, "num_subspaces": len(self.samples) if self.subspace else 0}

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        subspaces = f"standard error over {len(self.samples)} subspaces of {self.subspace} dimensions"
        where = "of all weights" if self.subspace is None else subspaces
        remark = f"a lower bound, in percent of 1 + loss; {where}; ε = {self.epsilon:g}"
        return [Line(self.title, self.value, self.stderr, remark)]


@dataclass(frozen=True, kw_only=True)
class PacBayesSigma(Result):
    """The noise in the weights that a model bears: the σ at which what is measured has risen by a target.

    Attributes:
        sigma: the σ; zero where no noise is borne at all, ∞ where none reaches the target.
        low: lower end of the interval, where the upper bound on the mean rise meets the target.
        high: upper end, where the lower bound meets it; ∞ where it never does.
        level: confidence of the interval, and of those bounds.
        target: of the mean rise.
        quantity: what rises: ``"loss"``, or one minus a score.
        sigmas: ``(k,)``, the deviations that were looked at, ascending.
        rises: ``(k,)``, the mean rise at each.
        stderrs: ``(k,)``, their standard errors over the draws, the same for all.
        num_draws: pairs of draws.
    """

    sigma: float
    low: float
    high: float
    level: float
    target: float
    quantity: str
    sigmas: Array = field(repr=False)
    rises: Array = field(repr=False)
    stderrs: Array = field(repr=False)
    num_draws: int

    title: ClassVar[str] = "PAC-Bayes sigma"

    def summary(self) -> dict[str, Any]:
        """σ with its interval, and 1/σ², which grows with sharpness."""
        inverse = np.inf if self.sigma == 0 else 1 / self.sigma**2
        found = {"sigma": self.sigma, "low": self.low, "high": self.high, "level": self.level}
        return found | {"inverse_square": inverse, "target": self.target, "quantity": self.quantity}

    def lines(self) -> list[Line]:
        """σ with half of its interval."""
        remark = (
            f"{100 * self.level:g} % interval {self.low:.4g} to {self.high:.4g}; noise that costs {self.target:g} "
            f"of {self.quantity}"
        )
        return [Line(self.title, self.sigma, (self.high - self.low) / 2, remark)]

    def to_frame(self) -> pd.DataFrame:
        """One row per σ that was looked at."""
        return pd.DataFrame({"sigma": self.sigmas, "rise": self.rises, "stderr": self.stderrs})


@dataclass(frozen=True, kw_only=True)
class FisherRaoNorm(Result):
    """w'Fw, the square of the Fisher-Rao norm of the weights.

    Attributes:
        value: over all the data: the mean over shards, weighted by their denominators.
        stderr: its standard error over shards; NaN for a single shard, which gives no estimate of it.
        per_shard: ``(num_shards,)``, that of each shard that has anything to count.
        shard_sizes: ``(num_shards,)``, examples in each.
        denominators: ``(num_shards,)``, what the loss of each is divided by.
        microbatch_size: examples per shard asked for.
        operator: which matrix F is.
    """

    value: float
    stderr: float
    per_shard: Array = field(repr=False)
    shard_sizes: Array = field(repr=False)
    denominators: Array = field(repr=False)
    microbatch_size: int
    operator: str

    title: ClassVar[str] = "Fisher-Rao norm, squared"

    def summary(self) -> dict[str, Any]:
        """Value and standard error."""
        shards = {"microbatch_size": self.microbatch_size, "num_shards": len(self.per_shard)}
        return {"square": self.value, "stderr": self.stderr, "operator": self.operator, **shards}

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        remark = f"standard error over {len(self.per_shard)} shards of {self.microbatch_size} examples"
        if len(self.per_shard) == 1:
            remark = "a single shard gives no standard error"
        return [Line(self.title, self.value, self.stderr, f"{remark}; w'Fw with the {self.operator}")]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        columns = {"square": self.per_shard, "examples": self.shard_sizes, "denominator": self.denominators}
        return pd.DataFrame(columns).rename_axis("shard").reset_index()


@dataclass(frozen=True, kw_only=True)
class RelativeFlatness(Result):
    """Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'} over the rows w_s of each layer; large where the layer is sharp.

    Attributes:
        value: the sum over the layers.
        stderr: its standard error.
        layers: ``(l,)``, names of the matrices of weights.
        values: ``(l,)``, that of each.
        stderrs: ``(l,)``, their standard errors.
        num_products: ``(l,)``, products with the Hessian of each.
        stopped: ``(l,)``, why no more: ``"budget"``, ``"precision"``, ``"exact"`` or ``"time"``.
    """

    value: float
    stderr: float
    layers: Array
    values: Array = field(repr=False)
    stderrs: Array = field(repr=False)
    num_products: Array = field(repr=False)
    stopped: Array = field(repr=False)

    title: ClassVar[str] = "relative flatness"

    def summary(self) -> dict[str, Any]:
        """The sum and each layer, with standard errors."""
        return {
            "relative_flatness": self.value,
            "stderr": self.stderr,
            "layers": dict(zip(self.layers.tolist(), self.values.tolist(), strict=True)),
            "layer_stderrs": dict(zip(self.layers.tolist(), self.stderrs.tolist(), strict=True)),
            "num_products": int(self.num_products.sum()),
        }

    def lines(self) -> list[Line]:
        """The sum, and each layer where there are several."""
        remark = f"standard error; {int(self.num_products.sum())} products"
        layers = zip(self.layers.tolist(), self.values, self.stderrs, strict=True)
        parts = [Line(f"{self.title} of {name}", float(v), float(e), "standard error") for name, v, e in layers]
        return [Line(self.title, self.value, self.stderr, remark), *(parts if len(parts) > 1 else [])]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        columns = {"layer": self.layers, "relative_flatness": self.values, "stderr": self.stderrs}
        return pd.DataFrame({**columns, "num_products": self.num_products, "stopped": self.stopped})
