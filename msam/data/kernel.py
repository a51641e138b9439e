"""Least squares in a space of functions given by a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msam.data.examples import Examples

NEGLIGIBLE = 1e-12  # of the largest eigenvalue of the kernel matrix
CENTRES = 5  # of the bumps that the function is made of


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """Noisy values y = f*(x) + σ ε of a function with a known kernel, as a linear model (Behdin and Mazumder 2023).

    The functions are f(x) = <φ(x), w> with <φ(x), φ(x')> = K(x, x') on all points here, so that descent on the
    weights w is descent in the space of the kernel. Everything about it is known in closed form; see
    :class:`LinearCourse`. Source: arXiv 2302.11836.

    Attributes:
        train_features: φ of the training points, ``(n, r)``, double precision.
        test_features: φ of the test points, ``(t, r)``.
        train_truth: f* there, ``(n,)``.
        test_truth: f* there, ``(t,)``.
        train_targets: y, ``(n,)``.
        test_targets: y, ``(t,)``.
        noise: σ.
    """

    train_features: Tensor = field(repr=False)
    test_features: Tensor = field(repr=False)
    train_truth: Tensor = field(repr=False)
    test_truth: Tensor = field(repr=False)
    train_targets: Tensor = field(repr=False)
    test_targets: Tensor = field(repr=False)
    noise: float

    def examples(self) -> tuple[Examples, Examples]:
        """Features and noisy values, for training and for testing, in single precision."""
        return (
            Examples(self.train_features.float(), self.train_targets.float()),
            Examples(self.test_features.float(), self.test_targets.float()),
        )

    def excess(self, weights: Tensor) -> dict[str, float]:
        """Mean squared distance of f from f*: ``train_excess`` on the training points, ``test_excess`` on the others.

        Args:
            weights: w, ``(r,)``.
        """
        w = weights.detach().double().cpu()
        return {
            "train_excess": float((self.train_features @ w - self.train_truth).square().mean()),
            "test_excess": float((self.test_features @ w - self.test_truth).square().mean()),
        }


def kernel_regression(
    number: int, *, tests: int, dim: int = 1, bandwidth: float = 0.2, noise: float = 0.3, seed: int
) -> KernelRegression:
    """Draw points, a function and its noisy values, with K(x, x') = exp(-‖x - x'‖² / 2h²).

    Points are uniform in [-1, 1]^dim; f* is a sum of five bumps K(x, c) with normal coefficients, scaled to a mean
    square of one over the training points.

    Args:
        number: n, of training points.
        tests: of test points.
        dim: of a point.
        bandwidth: h > 0.
        noise: σ ≥ 0, the deviation of the values from f*.
        seed: of all that is drawn.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if number < 1 or tests < 1 or dim < 1 or not bandwidth > 0 or not 0 <= noise < math.inf:
        raise ValueError(
            "kernel regression takes at least one training point, test point and dimension, a bandwidth above 0, and "
            f"noise of 0 or more, a finite number; got {number}, {tests}, {dim}, {bandwidth} and {noise}"
        )
    generator = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(number + tests, dim, generator=generator, dtype=torch.float64) - 1
    chosen = torch.randperm(number, generator=generator)[:CENTRES]
    coefficients = torch.randn(len(chosen), generator=generator, dtype=torch.float64)
    epsilon = noise * torch.randn(number + tests, generator=generator, dtype=torch.float64)
    gram = torch.exp(-torch.cdist(points, points).square() / (2 * bandwidth**2))
    values, vectors = torch.linalg.eigh(gram)
    kept = values > NEGLIGIBLE * values[-1]
    features = vectors[:, kept] * values[kept].sqrt()  # (n + t, r)
    truth = features @ (features[chosen].T @ coefficients)
    truth = truth / truth[:number].square().mean().sqrt()
    targets = truth + epsilon
    both = [number, tests]
    (train, test), (train_truth, test_truth), (train_targets, test_targets) = (
        part.split(both) for part in (features, truth, targets)
    )
    return KernelRegression(train, test, train_truth, test_truth, train_targets, test_targets, noise)
