"""One step of training, by every way of taking it, on one network and one batch."""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import nets
from benchmarks.sam import TwoStepSAM
from landscape import GradientAscent
from msam import Fastest, Layerwise, OneByOne, Vectorised, mSAM
from msam.execution import Execution

BATCH, RHO = 128, 0.05
EXECUTIONS: dict[str, Callable[[], Execution]] = {
    "OneByOne": OneByOne,
    "Layerwise": Layerwise,
    "Vectorised": Vectorised,
    "Fastest": Fastest,
}


@dataclass(frozen=True)
class Problem:
    """A network, the shape of its images, and the numbers of micro-batches that are of interest."""

    build: Callable[[], nn.Module]
    image: tuple[int, ...]
    shards: tuple[int, ...]
    steps: int  # to a measurement

    def model_and_batch(
        self, device: str, dtype: torch.dtype = torch.float32
    ) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """The same weights and examples every time."""
        torch.manual_seed(0)
        images, labels = torch.randn(BATCH, *self.image), torch.randint(0, 10, (BATCH,))
        return self.build().to(device, dtype), (images.to(device, dtype), labels.to(device))


PROBLEMS = {
    "MLP": Problem(nets.mlp, (1, 8, 8), (1, 8, 32, 64), 20),
    "ViT": Problem(nets.ViT, (3, 32, 32), (1, 4, 16, 64), 1),
    "ResNet-20": Problem(nets.resnet20, (3, 32, 32), (1, 4, 16, 64), 1),
}


def stepper(problem: Problem, way: str, number: int, device: str) -> Callable[[], None]:
    """As many steps as make a measurement, by SGD, the published SAM, or mSAM in one of its executions."""
    model, (images, labels) = problem.model_and_batch(device)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def loss() -> Tensor:
        return functional.cross_entropy(model(images), labels)

    def plain() -> None:
        sgd.zero_grad()
        loss().backward()
        sgd.step()

    one = plain
    if way == "SAM, two steps":
        sam = TwoStepSAM(sgd, RHO)
        one = lambda: sam.step(loss)  # noqa: E731
    elif way != "SGD":
        ascent, execution = GradientAscent(rho=RHO), EXECUTIONS[way]()
        optimizer = mSAM(sgd, ascent, num_microbatches=number, module=model, execution=execution)
        one = lambda: optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), (images, labels))  # noqa: E731
        for _ in range(13 if way == "Fastest" else 1):  # what is measured or checked first
            one()
        if isinstance(execution, Fastest):
            print(f"    {number} micro-batches: {execution!r}", file=sys.stderr)

    def run() -> None:
        for _ in range(problem.steps):
            one()
        if device != "cpu":
            torch.accelerator.synchronize()

    return run


def require_equal(problem: Problem, ways: list[str], number: int, device: str) -> None:
    """All executions must find one gradient, in double precision, and none may fall back."""
    model, batch = problem.model_and_batch(device, torch.float64)
    found = []
    for way in ["OneByOne", *ways]:
        twin, execution = copy.deepcopy(model), EXECUTIONS[way]()
        sgd = torch.optim.SGD(twin.parameters(), lr=1.0)
        optimizer = mSAM(sgd, GradientAscent(rho=RHO), num_microbatches=number, module=twin, execution=execution)
        optimizer.step(lambda b, twin=twin: functional.cross_entropy(twin(b[0]), b[1]), batch)  # type: ignore[misc]
        if getattr(execution, "reason", None) is not None:
            raise RuntimeError(f"{way} fell back: {execution.reason}")  # type: ignore[attr-defined]
        found.append(torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]))
    for way, gradient in zip(ways, found[1:], strict=True):
        if not (gradient - found[0]).norm() <= 1e-11 * found[0].norm():
            raise RuntimeError(f"{way} is off by {(gradient - found[0]).norm() / found[0].norm():.1e}")


def peak_memory(name: str, way: str, number: int, device: str) -> float:
    """MiB that model, batch and a few steps take, in a process of their own."""
    code = f"from benchmarks.steps import _peak; print(_peak({name!r}, {way!r}, {number}, {device!r}))"
    # Otherwise the C library keeps what is freed, and takes other amounts each time.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings)
    return float(done.stdout.split()[-1])


def _peak(name: str, way: str, number: int, device: str) -> float:
    problem = PROBLEMS[name]
    small = Problem(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 10)), (4,), (1,), 1)
    for each in ("SGD", way):  # what is loaded and set up once
        stepper(small, each, number, device)()
    model, (images, labels) = problem.model_and_batch(device)
    functional.cross_entropy(model(images[:2]), labels[:2]).backward()
    del model, images, labels
    if device != "cpu":
        memory = torch.get_device_module(device)
        memory.reset_peak_memory_stats()
        held = memory.memory_allocated()
        stepper(problem, way, number, device)()
        return float(memory.max_memory_allocated() - held) / 2**20
    before = _most_resident(reset=True)
    stepper(Problem(problem.build, problem.image, (1,), 2), way, number, device)()
    return _most_resident() - before


def _most_resident(*, reset: bool = False) -> float:
    """The most MiB this process has had, since the last reset where the system has such a thing."""
    about, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if reset:
        clear.write_text("5")
    (line,) = (line for line in about.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10
