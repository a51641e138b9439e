"""Problems whose answers are known: closed forms first, then small networks with a dense autograd reference.

Nothing here goes through ``Objective``: the dense references are written on the model alone, over all the data at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import Objective

SIZES = (5, 5, 3)  # of the batches: the last one is ragged
N = sum(SIZES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(n: int, count: int, *, seed: int = 0) -> Tensor:
    """Class indices; every class occurs."""
    drawn = torch.randint(0, count, (n,), generator=torch.Generator().manual_seed(seed))
    drawn[:count] = torch.arange(count)
    return drawn


def ragged(x: Tensor, y: Tensor, sizes: tuple[int, ...] = SIZES) -> list[tuple[Tensor, Tensor]]:
    """Batches of unequal sizes."""
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def symmetric(eigenvalues: Tensor, *, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues and a random eigenbasis."""
    basis, _ = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))
    A = basis * eigenvalues @ basis.T
    return (A + A.T) / 2


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that ignores its targets."""
    return outputs.mean()


class Quadratic(nn.Module):
    """b ↦ w'Aw/2 + b'w for each example b."""

    def __init__(self, A: Tensor, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.register_buffer("A", A)

    def forward(self, slopes: Tensor) -> Tensor:
        return self.w @ (self.A @ self.w) / 2 + slopes @ self.w


def quadratic(A: Tensor, *, w: Tensor | None = None, slopes: Tensor | None = None) -> Objective:
    """L(w) = w'Aw/2 + b'w with b the mean of the slopes: the Hessian is A, the gradient Aw + b.

    Args:
        A: symmetric, ``(dim, dim)``.
        w: ``(dim,)``, ones when left out.
        slopes: one row per example, ``(13, dim)``, zeros when left out.
    """
    w = torch.ones(len(A), dtype=torch.float64) if w is None else w
    slopes = torch.zeros(N, len(A), dtype=torch.float64) if slopes is None else slopes
    return Objective(Quadratic(A, w), mean_output, ragged(slopes, torch.zeros(N)))


def linear_regression(*, inputs: int = 4, outputs: int = 3) -> tuple[Objective, Tensor]:
    """A linear model under the mean squared error, and its Hessian 2/(N·outputs) I ⊗ X'X."""
    model = nn.Linear(inputs, outputs, bias=False).double()
    X, Y = normal(N, inputs, seed=1), normal(N, outputs, seed=2)
    hessian = 2 / (N * outputs) * torch.kron(torch.eye(outputs, dtype=torch.float64), X.T @ X)
    return Objective(model, F.mse_loss, ragged(X, Y)), hessian


def softmax_regression(*, inputs: int = 4, count: int = 3) -> tuple[Objective, Tensor]:
    """A linear model under the cross-entropy, and its Hessian 1/N Σ (diag p − pp') ⊗ xx'."""
    model = nn.Linear(inputs, count, bias=False).double()
    nn.init.normal_(model.weight)
    X, y = normal(N, inputs, seed=1), classes(N, count, seed=2)
    p = torch.softmax(X @ model.weight.detach().T, dim=1)
    hessian = sum(torch.kron(q.diag() - torch.outer(q, q), torch.outer(x, x)) for q, x in zip(p, X, strict=True)) / N
    return Objective(model, F.cross_entropy, ragged(X, y)), hessian


class TiedAutoencoder(nn.Module):
    """Two layers that share one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class WithUnused(nn.Module):
    """A layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.used(x))


class Attention(nn.Module):
    """One attention head over a sequence, ``(n, length, 3)`` -> ``(n, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 12)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, dim=-1))  # (n, 1, length, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v)[:, 0].mean(dim=1))


def tanh_mlp() -> nn.Module:
    """Two layers, no special traits."""
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def conv_net() -> nn.Module:
    """A convolution, batch norm with running statistics that are not the default ones, and a linear head."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    model[1].running_mean = normal(2, seed=5)
    model[1].running_var = normal(2, seed=6).square() + 0.5
    return model.eval()


def half_frozen() -> nn.Module:
    """A network whose first layer is frozen."""
    model = tanh_mlp()
    model[0].requires_grad_(False)
    return model


@dataclass(frozen=True)
class Problem:
    """A model, all its data and its loss."""

    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[..., Tensor] = F.cross_entropy

    def objective(self, *, parameters: str = "*") -> Objective:
        """The objective over ragged batches."""
        return Objective(self.model, self.loss, ragged(self.x, self.y), parameters=parameters)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[..., Tensor]]] = {
    "tanh_mlp": (tanh_mlp, (3,), F.cross_entropy),
    "tanh_mlp_mse": (tanh_mlp, (3,), F.mse_loss),
    "conv_batch_norm": (conv_net, (1, 3, 3), F.cross_entropy),
    "tied": (TiedAutoencoder, (3,), F.mse_loss),
    "frozen": (half_frozen, (3,), F.cross_entropy),
    "unused": (WithUnused, (3,), F.mse_loss),
    "attention": (Attention, (5, 3), F.cross_entropy),
}


def problem(name: str) -> Problem:
    """A problem of the zoo, the same at each call."""
    build, shape, loss = ZOO[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build().double()
    targets = normal(N, 3, seed=8) if loss is F.mse_loss else classes(N, 3, seed=8)
    return Problem(model, normal(N, *shape, seed=7), targets, loss)


def _outputs_of(model: nn.Module, x: Tensor, pattern: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    named = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and fnmatch.fnmatch(n, pattern)}

    def outputs(w: Tensor) -> Tensor:
        parts = w.split([p.numel() for p in named.values()])
        weights = {name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(model, weights, (x,))

    return outputs, torch.cat([p.flatten() for p in named.values()])


def dense_gradient(given: Problem, pattern: str = "*") -> Tensor:
    """∇L by autograd over all the data at once, ``(dim,)``."""
    outputs, w = _outputs_of(given.model, given.x, pattern)
    return torch.autograd.functional.jacobian(lambda v: given.loss(outputs(v), given.y), w)


def dense_hessian(given: Problem, pattern: str = "*") -> Tensor:
    """∇²L by autograd over all the data at once, ``(dim, dim)``."""
    outputs, w = _outputs_of(given.model, given.x, pattern)
    return torch.autograd.functional.hessian(lambda v: given.loss(outputs(v), given.y), w)


def dense_ggn(given: Problem, pattern: str = "*") -> Tensor:
    """J' (∂²L/∂outputs²) J by autograd over all the data at once, ``(dim, dim)``."""
    outputs, w = _outputs_of(given.model, given.x, pattern)
    heads = outputs(w).detach()
    J = torch.autograd.functional.jacobian(outputs, w).reshape(heads.numel(), -1)
    inner = torch.autograd.functional.hessian(lambda z: given.loss(z.view_as(heads), given.y), heads.flatten())
    return J.T @ inner @ J
