"""Made-up results of every kind of sharpness and flatness: the i-th of several models."""

from __future__ import annotations

import numpy as np

from landscape.answers import (
    AverageCaseSharpness,
    FisherRaoNorm,
    KeskarSharpness,
    LowPassFlatness,
    PacBayesSigma,
    RelativeFlatness,
    Sharpness,
    SharpnessCurve,
    SharpnessOverSizes,
    WorstCaseSharpness,
)


def sharpness(i: int) -> Sharpness:
    per_shard = np.random.default_rng(i).gamma(4, 0.01 / (1 + i), 9)
    return Sharpness(
        value=per_shard.mean(),
        stderr=per_shard.std(ddof=1) / 3,
        per_shard=per_shard,
        shard_sizes=np.full(9, 32),
        microbatch_size=32,
    )


def worst_case(i: int) -> WorstCaseSharpness:
    plain = sharpness(i)
    parts = {name: getattr(plain, name) for name in ("value", "stderr", "per_shard", "shard_sizes", "microbatch_size")}
    return WorstCaseSharpness(starts=np.array(["w", "random 1", "none"] * 3), lengths=np.full(9, 0.5), **parts)


def average_case(i: int) -> AverageCaseSharpness:
    samples = np.random.default_rng(i).normal(0.02 * (1 + i), 0.004, 20)
    stderr = samples.std(ddof=1) / np.sqrt(20)
    return AverageCaseSharpness(value=samples.mean(), stderr=stderr, samples=samples, rho=0.1, loss=0.3)


def low_pass(i: int) -> LowPassFlatness:
    found = average_case(i)
    samples = found.samples + 0.3
    return LowPassFlatness(value=samples.mean(), stderr=found.stderr, samples=samples, sigma=0.1, loss=0.3)


def keskar(i: int) -> KeskarSharpness:
    if i == 0:
        return KeskarSharpness(value=3.0, stderr=np.nan, samples=np.array([3.0]), loss=0.3, epsilon=1e-3)
    samples = np.random.default_rng(i).normal(2.0 + i, 0.2, 5)
    stderr = samples.std(ddof=1) / np.sqrt(5)
    return KeskarSharpness(value=samples.mean(), stderr=stderr, samples=samples, loss=0.3, epsilon=1e-3, subspace=100)


def fisher_rao(i: int) -> FisherRaoNorm:
    plain = sharpness(i)
    parts = {name: getattr(plain, name) for name in ("value", "stderr", "per_shard", "shard_sizes", "microbatch_size")}
    return FisherRaoNorm(denominators=plain.shard_sizes, operator="GGNOperator", **parts)


def relative(i: int) -> RelativeFlatness:
    names = np.array(["stem.weight", "blocks.0.linear.weight", "blocks.1.linear.weight", "head.weight"])
    values = np.random.default_rng(i).gamma(4, 2.0 / (1 + i), 4)
    return RelativeFlatness(
        value=values.sum(),
        stderr=0.2 * np.sqrt(4),
        layers=names,
        values=values,
        stderrs=np.full(4, 0.2),
        num_products=np.full(4, 100),
        stopped=np.array(["budget"] * 4),
    )


def curve(i: int) -> SharpnessCurve:
    rhos = np.geomspace(0.01, 1, 7)
    samples = np.random.default_rng(i).gamma(20, 0.05, (7, 8)) * (0.1 * rhos + (1 + i) * rhos**2)[:, None]
    return SharpnessCurve(
        rhos=rhos,
        values=samples.mean(axis=1),
        stderrs=samples.std(axis=1, ddof=1) / np.sqrt(8),
        samples=samples,
        kind="worst-case sharpness",
        radius="ρ: bound on ‖ε‖₂",
        microbatch_size=128,
    )


def sizes(i: int) -> SharpnessOverSizes:
    values = 0.1 * (1 + i) / np.array([1.0, 2.0, 4.0])
    return SharpnessOverSizes(
        microbatch_sizes=np.array([1, 8, 128]),
        values=values,
        stderrs=np.array([*(0.1 * values[:2]), np.nan]),
        num_shards=np.array([128, 16, 1]),
        rho=0.05,
        radius="ρ: bound on ‖ε‖₂",
    )


def pac_bayes(i: int) -> PacBayesSigma:
    sigmas = np.geomspace(0.01, 0.2, 9) / (1 + 0.2 * i)
    rises = 5 * sigmas**2 * (1 + i) * (1 + 3 * sigmas)
    at = float(np.interp(0.1, rises, sigmas))
    return PacBayesSigma(
        sigma=at,
        low=0.9 * at,
        high=1.15 * at if i else np.inf,
        level=0.95,
        target=0.1,
        quantity="loss",
        sigmas=sigmas,
        rises=rises,
        stderrs=0.1 * rises,
        num_draws=20,
    )


SHARPNESSES = {
    "sharpness": sharpness,
    "worst case": worst_case,
    "average case": average_case,
    "low pass": low_pass,
    "Keskar": keskar,
    "Fisher-Rao": fisher_rao,
    "relative flatness": relative,
    "curve": curve,
    "sizes": sizes,
    "sigma": pac_bayes,
}
