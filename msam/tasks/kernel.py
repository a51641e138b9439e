"""The task in which everything is known in closed form."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from msam.data.kernel import kernel_regression
from msam.data.splits import require_seed
from msam.tasks.task import Task


def halved_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ mean (outputs - targets)²."""
    return 0.5 * functional.mse_loss(outputs, targets)


def linear_from_zero(dim: int) -> nn.Module:
    """A linear function without a bias, ``(n, dim)`` -> ``(n,)``, whose weights begin at zero."""
    layer = nn.Linear(dim, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return nn.Sequential(layer, nn.Flatten(0))


def kernel(
    *,
    train_examples: int = 50,
    test_examples: int = 500,
    dim: int = 1,
    bandwidth: float = 0.2,
    noise: float = 0.3,
    data_seed: int = 0,
) -> Task:
    """Kernel regression, drawn (Behdin and Mazumder 2023): bias and variance of GD, SAM and mSAM in closed form.

    A run's ``metrics.csv`` has ``train_excess`` and ``test_excess``, the squared distance from the true function, after
    every epoch. Where all examples are one batch, ``--perturbation sam-unnormalised --momentum 0 --schedule constant``
    follows ``msam.LinearCourse``.

    Args:
        train_examples: n.
        test_examples: new points, with noisy values.
        dim: of a point.
        bandwidth: h of K(x, x') = exp(-‖x - x'‖² / 2h²).
        noise: σ, deviation of the values from the true function.
        data_seed: of points, function and noise.
    """
    require_seed(data_seed)
    drawn = kernel_regression(
        train_examples, tests=test_examples, dim=dim, bandwidth=bandwidth, noise=noise, seed=data_seed
    )
    train, test = drawn.examples()
    about = (
        f"a function of {dim} variable{'s' if dim > 1 else ''} with a Gaussian kernel of width {bandwidth:g}, noise of "
        f"deviation {noise:g}: {train_examples} training and {test_examples} test points"
    )
    return Task(
        "kernel",
        lambda: linear_from_zero(drawn.train_features.shape[1]),
        halved_squared_error,
        train,
        test,
        about,
        probe=lambda model: drawn.excess(next(model.parameters()).flatten()),
    )
