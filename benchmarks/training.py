"""The cost of an mSAM step in steps of SGD, on the digits networks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import compare
from landscape import GradientAscent
from msam import TrainConfig, mSAM

STEPS = 20


def _stepper(model_name: str, num_microbatches: int | None) -> Callable[[], None]:
    """Twenty steps of plain SGD, or of mSAM around it, on one batch of 128 images."""
    config = TrainConfig(settings={"model": model_name})
    task = config.load_task()
    model = task.model(seed=0)
    batch = (task.train.inputs[:128], task.train.targets[:128])
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def plain() -> None:
        for _ in range(STEPS):
            sgd.zero_grad()
            task.loss(model(batch[0]), batch[1]).backward()
            sgd.step()

    if num_microbatches is None:
        return plain
    optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=num_microbatches, module=model)

    def sharpness_aware() -> None:
        for _ in range(STEPS):
            optimizer.step(lambda b: task.loss(model(b[0]), b[1]), batch)

    return sharpness_aware


def main() -> None:
    """Print the table."""
    for name in ("mlp", "cnn-bn", "cnn-gn"):
        print(f"{name}: one step on 128 images, in steps of SGD")
        candidates = {"SGD": _stepper(name, None)}
        candidates |= {f"{m} micro-batches": _stepper(name, m) for m in (1, 2, 4, 8, 16)}
        for label, ratio in compare(candidates, rounds=15, reference="SGD").items():
            print(f"  {label:16} {ratio:6.2f}")
