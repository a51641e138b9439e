"""One step of training, by every way of taking it, on one network and one batch."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pytorch_optimizer import SAM
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import nets
from benchmarks.sam import TwoStepSAM
from landscape import GradientAscent
from msam import Fastest, Layerwise, OneByOne, Vectorised, mSAM
from msam.execution import Execution

BATCH, RHO = 128, 0.05
COUNTED = "the step in which memory is counted"
EXECUTIONS: dict[str, Callable[[], Execution]] = {
    "OneByOne": OneByOne,
    "Layerwise": Layerwise,
    "Vectorised": Vectorised,
    "Fastest": Fastest,
}


@dataclass(frozen=True)
class Problem:
    """A network, the shape of its images, and the numbers of micro-batches that are of interest.

    Attributes:
        build: makes the network.
        image: the shape of an image.
        targets: the most that a step may cost, in steps of SGD, for each number of micro-batches; None for no target.
        gains: how many times faster than one by one the quickest is to be, for some numbers of micro-batches.
        steps: to a measurement.
        rounds: of measurements.
    """

    build: Callable[[], nn.Module]
    image: tuple[int, ...]
    targets: Mapping[int, float | None]
    gains: Mapping[int, float] = dataclasses.field(default_factory=dict)
    steps: int = 1
    rounds: int = 7

    def model_and_batch(
        self, device: str, dtype: torch.dtype = torch.float32
    ) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """The same weights and examples every time."""
        torch.manual_seed(0)
        images, labels = torch.randn(BATCH, *self.image), torch.randint(0, 10, (BATCH,))
        return self.build().to(device, dtype), (images.to(device, dtype), labels.to(device))


PROBLEMS = {
    "MLP": Problem(
        nets.mlp, (1, 8, 8), {1: 2.1, 8: 2.3, 32: 2.1, 64: 2.0}, gains={8: 3, 32: 10, 64: 18}, steps=2, rounds=60
    ),
    "ViT": Problem(nets.vit, (3, 32, 32), {1: 2.1, 4: None, 16: 2.4, 64: 2.6}),
    "ResNet-20": Problem(nets.resnet20, (3, 32, 32), {1: 2.1, 4: 2.3, 16: 3.0, 64: 3.3}, rounds=5),
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

    one: Callable[[], object] = plain
    if way == "SAM, two steps":
        sam = TwoStepSAM(sgd, RHO)
        one = lambda: sam.step(loss)  # noqa: E731
    elif way == "SAM, pytorch_optimizer":
        theirs = SAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=1e-4, momentum=0.9)

        def third() -> None:
            theirs.zero_grad()
            loss().backward()
            theirs.step(lambda: loss().backward())

        one = third

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


def peak_memory(problem: Problem, way: str, number: int, device: str) -> float:
    """The most MiB of tensors in a step, weights, batch and what is kept between steps included.

    Not the first step, in which executions are held against each other. On the CPU every allocation of torch's is
    counted, byte by byte; what libraries such as oneDNN take for themselves is not seen.
    """
    problem = dataclasses.replace(problem, steps=1)
    if device != "cpu":
        memory = torch.get_device_module(device)
        before = memory.memory_allocated()
        step = stepper(problem, way, number, device)
        step()
        memory.reset_peak_memory_stats()
        step()
        return float(memory.max_memory_allocated() - before) / 2**20
    # From the start, since a block that is allocated before is not seen to be freed.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        step = stepper(problem, way, number, device)
        step()
        with record_function(COUNTED):
            step()
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    (start,) = (event.start_ns() for event in events if event.name() == COUNTED)
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = itertools.accumulate(change for _, change in changes)
    return max(size for (when, _), size in zip(changes, held, strict=True) if when >= start) / 2**20
