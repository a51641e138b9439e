"""Training: a task and a config become a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed

from landscape.progress import Progress, silent
from msam.config import TrainConfig
from msam.distributed import Distributed
from msam.processes import OneProcess, Processes
from msam.run import Run
from msam.tasks import Task
from msam.trainer import Trainer, TrainingDivergedError as TrainingDivergedError


def choose_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one.

    Raises:
        ValueError: if the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # of a backend that was not built, torch writes a page
        raise ValueError(f"there is no device {name!r} here ({reason}); try 'cpu'") from None
    return torch.device(name)


@contextlib.contextmanager
def launched(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started, this one among them, and the device of this one.

    Without torchrun it is this process alone. NCCL joins GPUs, Gloo the rest; devices are named as for :func:`train`.

    Raises:
        ValueError: if the device does not exist here.
    """
    place = choose_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield OneProcess(), str(place)
        return
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        processes = Distributed()
        yield processes, str(place)
        processes.wait()  # a group must not be taken apart while others still use it
    finally:
        torch.distributed.destroy_process_group()


def train(
    task: Task,
    config: TrainConfig,
    run: Run,
    *,
    device: str = "cpu",
    processes: Processes | None = None,
    progress: Progress = silent,
) -> Run:
    """Train a model, or go on where an interrupted run stopped, and write everything into the run.

    On one kind of machine a run that was stopped at any moment and resumed ends with the very same weights as one
    that was not; on another number of processes with the same weights within rounding. The caller's random state is
    left as it was.

    Args:
        task: model, loss and data; as the config says, or the caller's own.
        config: settings.
        run: where to write. When it holds a training state, training goes on from there.
        device: ``"auto"``, ``"cpu"`` or another torch device.
        processes: those that share the micro-batches, all of which call this function with the same arguments, and
            see the same files; the first of them writes. Only this one when left out.
        progress: called with the epochs done and their number.

    Returns:
        The run.

    Raises:
        TrainingDivergedError: if a loss or a weight is not finite, or gradients overflow in step after step; the last
            good checkpoint is kept.
        ProcessLostError: if another process has died; likewise.
        ValueError: if the training state is damaged, missing or of other settings, or another process trains in it.
        OSError: if the run cannot be written.
    """
    place = choose_device(device)
    sharing = OneProcess() if processes is None else processes
    lock = run.locked() if sharing.is_first else contextlib.nullcontext()
    with lock, torch.random.fork_rng([place] if place.type != "cpu" else [], device_type=place.type):
        trainer = Trainer(task, config, run, place, sharing)
        progress(trainer.epoch, config.epochs)
        while trainer.epoch < config.epochs:
            trainer.train_epoch()
            progress(trainer.epoch, config.epochs)
    return run
