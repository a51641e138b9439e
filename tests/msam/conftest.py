"""A small classifier, ragged batches for it, and a task small enough to be trained in milliseconds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import papers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from msam.config import TrainConfig
from msam.data import Examples
from msam.tasks import Task


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    """Builds 4 -> 5 -> 3 classes, always with the same weights."""

    def build(dtype: torch.dtype = torch.float64, *between: nn.Module) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(7)
            return nn.Sequential(nn.Linear(4, 5), *between, nn.Tanh(), nn.Linear(5, 3)).to(dtype)

    return build


@pytest.fixture
def make_batch() -> Callable[..., tuple[Tensor, Tensor]]:
    """Builds inputs ``(n, 4)`` and labels ``(n,)`` that depend on the seed alone."""

    def build(number: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(number, 4, generator=generator, dtype=torch.float64).to(dtype)
        return inputs, torch.randint(0, 3, (number,), generator=generator)

    return build


@pytest.fixture
def closure_of() -> Callable[[nn.Module], Callable[[tuple[Tensor, Tensor]], Tensor]]:
    """Makes the closure that mSAM wants of a classifier."""
    return lambda model: lambda batch: functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def toy_task(make_net, make_batch) -> Task:
    """30 training and 11 test examples in three classes; float32, as the built-in tasks."""
    train, test = (Examples(*make_batch(number, seed=number, dtype=torch.float32)) for number in (30, 11))
    return Task("toy", lambda: make_net(torch.float32), functional.cross_entropy, train, test, "random numbers")


@pytest.fixture
def toy_config() -> Callable[..., TrainConfig]:
    """Builds settings with four batches an epoch, the last ragged: 8, 8, 8, 6."""
    default = TrainConfig(batch_size=8, num_microbatches=3, epochs=3)
    return lambda **changes: dataclasses.replace(default, **changes)


@pytest.fixture
def cook(tmp_path, monkeypatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a recipe in an empty folder, whole or up to its last statement, and gives what it defines."""
    monkeypatch.chdir(tmp_path)

    def run(heading, *, whole=True, changed=()):
        code = papers.recipes()[heading]
        if papers.absent(code):
            pytest.skip(f"needs {', '.join(papers.absent(code))}")
        for old, new in changed:
            assert code.count(old) == 1, old
            code = code.replace(old, new)
        lines = code if whole else code[: code.rindex("\nfor ")]
        names = {"__name__": "recipe"}
        exec(compile(lines, f"{heading}.py", "exec"), names)
        return names

    yield run
    with contextlib.suppress(ImportError):  # it holds on to the precision of the first one who asks
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in float64, so that rounding is far from any mistake."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
