"""One small network and its data on whatever device, and the numbers of what is asked of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import landscape as ls
from landscape.precision import doubled


class Net(nn.Module):
    """Images to classes: a convolution with batch norm, a smooth kink, attention between its maps, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.qkv, self.after, self.head = nn.Linear(9, 27), nn.LayerNorm(9), nn.Linear(9, 3)

    def forward(self, x):
        tokens = functional.gelu(self.norm(self.conv(x))).flatten(2)  # (n, maps, pixels)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return self.head(self.after(tokens + functional.scaled_dot_product_attention(q, k, v)).mean(1))


class Problem:
    """The network with weights of its own, another of the kind, and 11 images in ragged batches, on a device."""

    def __init__(self, device: str, dtype: torch.dtype, *, seed: int = 0) -> None:
        with torch.random.fork_rng([]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.model, self.second = (Net().to(device, dtype) for _ in range(2))
            images, classes = torch.randn(11, 1, 3, 3, dtype=torch.float64).to(dtype), torch.arange(11) % 3
        self.device, self.dtype = device, dtype
        self.images, self.classes = images.to(device), classes.to(device)
        self.data = list(zip(self.images.split([4, 4, 3]), self.classes.split([4, 4, 3]), strict=True))

    @cached_property
    def plain(self) -> ls.Objective:
        """The loss in evaluation mode, which most questions share."""
        return self.objective_of(self.model)

    def objective(self, model: nn.Module | None = None, **settings: Any) -> ls.Objective:
        """The loss in evaluation mode."""
        return self.plain if model is None and not settings else self.objective_of(model, **settings)

    def objective_of(self, model: nn.Module | None, **settings: Any) -> ls.Objective:
        """One of its own."""
        return ls.Objective((model or self.model).eval(), functional.cross_entropy, self.data, **settings)

    def perceptron(self, seed: int) -> nn.Module:
        """A network of two layers."""
        with torch.random.fork_rng([]), torch.device("cpu"):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3))
        return net.to(self.device, self.dtype)

    def pair(self) -> tuple[ls.Objective, ls.Objective]:
        """The objectives of both networks."""
        return self.objective(), self.objective(self.second)

    def direction(self, objective: ls.Objective) -> torch.Tensor:
        """One direction, the same everywhere."""
        drawn = np.random.Generator(np.random.PCG64(3)).standard_normal(objective.space.dim)
        return torch.from_numpy(drawn).to(objective.weights)


def numbers_of(answer: Any) -> Iterator[torch.Tensor]:
    """The numbers of an answer, in double precision on the CPU."""
    if isinstance(answer, torch.Tensor):
        yield doubled(answer.detach()).cpu()
    elif isinstance(answer, dict):
        yield from itertools.chain.from_iterable(map(numbers_of, answer.values()))
    elif isinstance(answer, tuple | list):
        yield from itertools.chain.from_iterable(map(numbers_of, answer))
    else:
        yield torch.from_numpy(np.array(answer, dtype=np.float64))
