"""Training: a task and a config become a run."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator

import torch
import torch.distributed

from landscape.checks import random_state_kept
from landscape.progress import Progress, silent
from msam.config import TrainConfig
from msam.distributed import Distributed
from msam.processes import OneProcess, Processes
from msam.run import Run
from msam.tasks import Task
from msam.tasks.failing import blaming
from msam.trainer import Trainer, TrainingDivergedError as TrainingDivergedError


def choose_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one: ``"cuda"``, else ``"mps"``, else the CPU.

    Raises:
        ValueError: if the device does not exist here.
    """
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, is_there in there.items() if is_there)
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
        ValueError: if the device does not exist here, or processes cannot exchange what is on it.
    """
    place = choose_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield OneProcess(), str(place)
        return
    if place.type not in ("cuda", "cpu"):
        raise ValueError(f"several processes share work on cuda or cpu devices; got {str(place)!r}; try 'cpu'")
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    # Optimizers import it, and after the group it would keep that from being taken apart: its threads would still be
    # there when Python ends, and abort it now and then (torch 2.13).
    importlib.import_module("torch._dynamo")
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        processes = Distributed()
        yield processes, str(place)
        processes.wait()  # a group must not be taken apart while others still use it
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within it torch takes only kernels that give the same bits each time; afterwards what it took before.

    Where several kernels would do, torch measures none of them (cudnn.benchmark), and cuBLAS works in a buffer of fixed
    size, if it has not begun already in this process with another.

    Args:
        wanted: False to change nothing.

    Raises:
        ValueError: if an operation has no such kernel.
    """
    if not wanted:
        yield
        return
    variable, cudnn = "CUBLAS_WORKSPACE_CONFIG", torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic
    is_given = variable in os.environ
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark, cudnn.deterministic = False, True
        os.environ.setdefault(variable, ":4096:8")
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = " ".join(str(error).split(". ")[0].split())
        raise ValueError(f"{reason}; train without deterministic, or with other layers") from None
    finally:
        mode, cudnn.benchmark, cudnn.deterministic = before
        torch.set_deterministic_debug_mode(mode)
        if not is_given:
            os.environ.pop(variable, None)


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
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or another torch device.
        processes: those that share the micro-batches, all of which call this function with the same arguments, and
            see the same files; the first of them writes. Only this one when left out.
        progress: called with the epochs done and their number.

    Returns:
        The run.

    Raises:
        TrainingDivergedError: if a loss or a weight is not finite, or gradients overflow in step after step; the last
            good checkpoint is kept.
        ProcessLostError: if another process has died; likewise.
        ValueError: if the training state is damaged, missing, of other settings or of other data, another process
            trains in it, it is to be deterministic and the model is not, the model begins with weights that are not
            finite, or the task's model, forward or loss fails.
        OSError: if the run cannot be written.
    """
    place = choose_device(device)
    sharing = OneProcess() if processes is None else processes
    lock = run.locked() if sharing.is_first else contextlib.nullcontext()
    with lock, random_state_kept(place):
        trainer = Trainer(task, config, run, place, sharing)
        progress(trainer.epoch, config.epochs)
        try:
            with deterministic(config.deterministic):
                while trainer.epoch < config.epochs:
                    trainer.train_epoch()
                    progress(trainer.epoch, config.epochs)
        except Exception as error:
            if error is not trainer.failure:
                raise
            with blaming(task.name, where=f"in epoch {trainer.epoch + 1}"):
                raise
    return run
