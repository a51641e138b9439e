"""Top eigenvalues against PyHessian and scipy's ARPACK, with the error of each verified in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse.linalg import eigsh

from benchmarks.harness import compare
from landscape import HessianOperator, Objective, pyhessian_eigenvalues, top_eigenvalues
from msam import TrainConfig, mSAM


def _objectives() -> tuple[Objective, Objective]:
    """The loss of a trained network on 1,000 images, in float32 and in float64."""
    config = TrainConfig(settings={"model": "mlp"})
    task = config.load_task()
    model = task.model(seed=0)
    optimizer = mSAM(config.base_optimizer(model), None, module=model)
    for _ in range(10):
        for batch in task.train.batches(100):
            optimizer.step(lambda b: task.loss(model(b[0]), b[1]), batch)
    single = [(task.train.inputs, task.train.targets)]
    double = [(task.train.inputs.double(), task.train.targets)]
    return Objective(model, task.loss, single), Objective(copy.deepcopy(model).double(), task.loss, double)


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    if arguments:
        raise SystemExit(f"this benchmark has no options; got {' '.join(arguments)}")
    objective, exact = _objectives()
    hessian = HessianOperator(objective)
    truth = top_eigenvalues(HessianOperator(exact), k=10, tol=1e-10).eigenvalues
    for k in (1, 5, 10):
        # PyHessian gives the largest in magnitude; at a minimum these are the largest.
        candidates: dict[str, Callable[[], np.ndarray]] = {  # type: ignore[type-arg]
            "this package": lambda k=k: top_eigenvalues(hessian, k=k).eigenvalues,
            "PyHessian": lambda k=k: pyhessian_eigenvalues(objective, k=k).eigenvalues,
            "scipy eigsh": lambda k=k: eigsh(hessian, k=k, which="LA", tol=1e-3)[0][::-1],
        }
        print(f"top {k} of {hessian.dim} weights, 1,000 images, relative tolerance 1e-3")
        errors = {name: float(np.abs(np.sort(run())[::-1] / truth[:k] - 1).max()) for name, run in candidates.items()}
        ratios, others = compare(candidates, rounds=7, reference="this package")
        print(f"  other processes took {others:.0%} of the machine")
        for name, ratio in ratios.items():
            print(f"  {name:14} time {ratio.median:6.2f}   largest relative error {errors[name]:.1e}")
