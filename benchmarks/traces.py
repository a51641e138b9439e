"""Traces of small trained networks by every estimator and by PyHessian, against the exact trace in float64."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape import (
    Estimator,
    ExactGaussNewton,
    HessianOperator,
    Hutchinson,
    HutchPlusPlus,
    KrylovAware,
    Objective,
    PerExample,
    TraceEstimate,
    XTrace,
    trace,
)
from msam import TrainConfig, mSAM

BUDGETS = (12, 30, 99)
SEEDS = 200
ESTIMATORS: tuple[Estimator, ...] = (
    ExactGaussNewton(),
    PerExample(),
    KrylovAware(),
    XTrace(),
    HutchPlusPlus(),
    Hutchinson(),
)


class _Attention(nn.Module):
    """A transformer of one head over the rows of an image."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.rows, self.places = nn.Linear(8, width), nn.Parameter(0.1 * torch.randn(8, width))
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 1, 8, 8)`` to ``(batch, 10)``."""
        tokens = self.rows(x.view(-1, 8, 8)) + self.places
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, dim=-1)
        mixed = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1) @ v
        logits: Tensor = self.head((tokens + self.out(mixed)).mean(dim=1))
        return logits


NETS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10)),
    "CNN": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    ),
    "transformer": _Attention,
}


@dataclass(frozen=True)
class _Errors:
    """Relative errors over seeds, and how often the 95 % interval held the truth."""

    rms: float
    covered: float
    products: float


def _trained(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64 after 40 epochs on 500 digits, and the digits."""
    config = TrainConfig(settings={"model": "mlp", "train_examples": 500})
    task = config.load_task()
    torch.manual_seed(0)
    model = build()
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), None, module=model)
    for _ in range(40):
        for batch in task.train.batches(50):
            optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), batch)
    return model.double(), task.train.inputs.double(), task.train.targets


def _dense(hessian: HessianOperator) -> Tensor:
    """The whole matrix, from its products with all coordinate vectors."""
    columns = torch.eye(hessian.dim, dtype=hessian.weights.dtype).split(100, dim=1)  # type: ignore[no-untyped-call]
    H = torch.cat([hessian.apply(part) for part in columns], dim=1)
    return (H + H.T) / 2


def _ours(hessian: HessianOperator, truth: float, estimator: Estimator) -> list[_Errors]:
    """At each budget."""
    if isinstance(estimator, PerExample | ExactGaussNewton):  # the fewer probes are the first of the more
        most = [trace(hessian, BUDGETS[-1], estimator=estimator, seed=seed) for seed in range(SEEDS)]
        found = [[_first(result, budget) for result in most] for budget in BUDGETS]
    else:
        found = [[trace(hessian, b, estimator=estimator, seed=seed) for seed in range(SEEDS)] for b in BUDGETS]
    return [_errors(results, truth) for results in found]


def _first(result: TraceEstimate, budget: int) -> TraceEstimate:
    """What fewer products of the same seed would have given, where each is a sample."""
    assert result.num_products is not None
    samples = result.samples[: len(result.samples) - (result.num_products - budget)]
    stderr = float(samples.std(ddof=1)) / len(samples) ** 0.5
    return dataclasses.replace(
        result, estimate=float(samples.mean()), stderr=stderr, samples=samples, num_products=budget
    )


def _errors(found: Sequence[TraceEstimate], truth: float) -> _Errors:
    errors = np.array([result.estimate for result in found]) / truth - 1
    intervals = np.array([result.interval(0.95) for result in found])
    covered = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    return _Errors(float(np.sqrt(np.mean(errors**2))), float(covered.mean()), float(found[0].num_products))


class _Products(nn.Module):
    """A loss w'Hw/2, so that PyHessian's own code runs on the products with H at the price of a matrix product."""

    def __init__(self, H: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(H), dtype=H.dtype))
        self.register_buffer("H", H)

    def forward(self, _: Tensor) -> Tensor:
        """The loss."""
        loss: Tensor = self.w @ (self.H @ self.w) / 2
        return loss


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward")  # the cycle it warns of is broken below
        yield


def _pyhessian(H: Tensor, truth: float) -> _Errors:
    """PyHessian's ``trace()`` as its users call it, with its own stop and no other settings."""
    from pyhessian import hessian

    model, token = _Products(H), torch.zeros(1)
    errors, products = [], []
    with _quiet():
        theirs = hessian(model, lambda outputs, _: outputs, (token, token), None, False)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        values = theirs.trace()
        errors.append(np.mean(values) / truth - 1)
        products.append(len(values))
    model.w.grad = None
    return _Errors(float(np.sqrt(np.mean(np.square(errors)))), float("nan"), float(np.mean(products)))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks traces", description=__doc__)
    parser.add_argument("--nets", default=",".join(NETS), help="which networks, with commas")
    options = parser.parse_args(arguments)
    for name in options.nets.split(","):
        model, inputs, targets = _trained(NETS[name])
        hessian = HessianOperator(Objective(model, functional.cross_entropy, [(inputs, targets)]))
        H = _dense(hessian)
        direct = trace(hessian, 20, seed=1).estimate
        hessian.apply = H.matmul  # type: ignore[method-assign]  # the same products, at the price of a matrix product
        truth, most = float(H.trace()), float(torch.linalg.eigvalsh(H)[-1])
        if abs(trace(hessian, 20, seed=1).estimate / direct - 1) > 1e-9:
            raise SystemExit("the dense matrix and the operator disagree")
        print(f"{name}, {hessian.dim} weights, 500 digits: trace {truth:.4g}, largest eigenvalue {most:.4g}")
        print(f"  relative RMS error over {SEEDS} seeds (share of 95 % intervals that hold the exact trace)")
        theirs = _pyhessian(H, truth)
        print(f"  {'PyHessian trace()':18} {theirs.rms:.4f} with {theirs.products:.0f} products on average")
        for estimator in ESTIMATORS:
            rows = _ours(hessian, truth, estimator)
            cells = "   ".join(f"{row.products:3.0f}: {row.rms:.4f} ({row.covered:.3f})" for row in rows)
            ratio = theirs.rms / rows[1].rms
            print(
                f"  {type(estimator).__name__:18} {cells}   PyHessian's error is {ratio:.1f} times that at 30",
                flush=True,
            )
