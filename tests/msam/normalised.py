"""A net with batch norm, a step of mSAM on it, and both written out by hand."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import mSAM

NUMBER, RHO = 3, 0.3


class Net(nn.Module):
    """4 -> 5, batch norm, tanh -> 3."""

    def __init__(self, **settings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.inner, self.norm, self.outer = nn.Linear(4, 5), nn.BatchNorm1d(5, **settings), nn.Linear(5, 3)
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        if self.norm.track_running_stats:
            self.norm.running_mean.copy_(torch.randn(5, generator=generator))
            self.norm.running_var.copy_(torch.rand(5, generator=generator) + 0.5)

    def forward(self, x):
        return self.outer(self.norm(self.inner(x)).tanh())


def loss_by_hand(weights, x, y, statistics):
    """The same net from its weights, normalised by (mean, variance), or by its own where that is None."""
    w = dict(weights)
    hidden = x @ w["inner.weight"].T + w["inner.bias"]
    mean, variance = statistics or (hidden.mean(0), hidden.var(0, correction=0))
    hidden = (hidden - mean) / (variance + 1e-5).sqrt()
    if "norm.weight" in w:
        hidden = hidden * w["norm.weight"] + w["norm.bias"]
    return functional.cross_entropy(hidden.tanh() @ w["outer.weight"].T + w["outer.bias"], y)


def slopes_by_hand(weights, *rest):
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    slopes = torch.autograd.grad(loss_by_hand(leaves, *rest), list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(w) if s is None else s for (name, w), s in zip(leaves.items(), slopes, strict=True)}


def msam_by_hand(weights, x, y, statistics):
    total, start = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for i in range(NUMBER):
        stop = start + len(x) // NUMBER + (i < len(x) % NUMBER)
        part = slice(start, stop)
        g = slopes_by_hand(weights, x[part], y[part], statistics)
        length = torch.cat([s.flatten() for s in g.values()]).norm()
        moved = {name: w + RHO * g[name] / length for name, w in weights.items()}
        h = slopes_by_hand(moved, x[part], y[part], statistics)
        total = {name: total[name] + (stop - start) / len(x) * h[name] for name in total}
        start = stop
    return total


def running_by_hand(before, parts, momentum):
    """Running mean and variance after these inputs, one after another."""
    mean, variance, seen = before
    for hidden in parts:
        seen = seen + 1
        share = 1 / seen if momentum is None else momentum
        mean = mean * (1 - share) + share * hidden.mean(0)
        variance = variance * (1 - share) + share * hidden.var(0)
    return mean, variance, seen


def step(model, policy, batch, **settings):
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=NUMBER, module=model, batch_norm=policy, **settings)
    return optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), batch)
