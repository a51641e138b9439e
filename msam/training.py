"""Training: a task and a config become a run."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.manifest import hash_of_settings
from landscape.progress import Progress, silent
from msam.checkpoints import is_whole, load_weights, read_state, save_state, save_weights
from msam.config import EXECUTIONS, SCHEDULES, TrainConfig
from msam.data import shuffled
from msam.evaluation import evaluate
from msam.optimizer import mSAM
from msam.replay import RandomState
from msam.run import Run
from msam.tasks import Task


class TrainingDivergedError(ValueError):
    """The loss or the weights stopped being finite."""


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
        raise ValueError(f"there is no device {name!r} here ({str(error).splitlines()[0]}); try 'cpu'") from None
    return torch.device(name)


def train(task: Task, config: TrainConfig, run: Run, *, device: str = "cpu", progress: Progress = silent) -> Run:
    """Train a model, or go on where an interrupted run stopped, and write everything into the run.

    On one kind of machine a run that was stopped at any moment and resumed ends with the very same weights as one
    that was not. The caller's random state is left as it was.

    Args:
        task: model, loss and data; as the config says, or the caller's own.
        config: settings.
        run: where to write. When it holds a training state, training goes on from there.
        device: ``"auto"``, ``"cpu"`` or another torch device.
        progress: called with the epochs done and their number.

    Returns:
        The run.

    Raises:
        TrainingDivergedError: if a loss or a weight is not finite; the last good checkpoint is kept.
        ValueError: if the training state is damaged, missing or of other settings, or another process trains in it.
        OSError: if the run cannot be written.
    """
    place = choose_device(device)
    with run.locked(), torch.random.fork_rng([place] if place.type != "cpu" else [], device_type=place.type):
        trainer = _Trainer(task, config, run, place)
        progress(trainer.epoch, config.epochs)
        while trainer.epoch < config.epochs:
            trainer.train_epoch()
            progress(trainer.epoch, config.epochs)
    return run


class _Trainer:
    """A model in training: everything that an epoch changes."""

    def __init__(self, task: Task, config: TrainConfig, run: Run, device: torch.device) -> None:
        self.task, self.config, self.run, self.device = task, config, run, device
        self.train, self.test = task.train.to(device), task.test.to(device)
        self.model = task.model(seed=config.seed).to(device)
        self.optimizer = mSAM(
            config.base_optimizer(self.model),
            config.ascent(),
            num_microbatches=config.num_microbatches,
            module=self.model,
            execution=EXECUTIONS[config.execution](),
        )
        steps = config.epochs * math.ceil(len(self.train) / config.batch_size)
        curve = SCHEDULES[config.schedule]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: curve(step / steps))
        self.epoch = 0
        self.rows: list[dict[str, float]] = []
        RandomState.seed(config.seed, device)
        if run.state_path.is_file():
            self._resume()
        elif any(_epoch_of(path) > 1 for path in run.checkpoints()):
            raise ValueError(
                f"{run.state_path} is gone, so training cannot go on after {run.checkpoints()[-1]}; "
                "put it back, or train anew with --overwrite"
            )
        elif config.checkpoint_every:
            save_weights(self.model, run.weights_path(0))

    def train_epoch(self) -> None:
        """One pass over the training data, then write everything."""
        started = time.perf_counter()
        lr = float(self.scheduler.get_last_lr()[0])
        self.model.train()
        order = shuffled(len(self.train), seed=self.config.seed, epoch=self.epoch)
        losses = []
        for number, batch in enumerate(self.train.batches(self.config.batch_size, order=order), start=1):
            loss = self.optimizer.step(self._loss, batch)
            self._require_finite(loss, f"the training loss became {loss.item()}", step=number)
            self.scheduler.step()
            losses.append(loss.item() * len(batch[1]))
        self._require_finite(_all_weights(self.model), "a weight is no longer finite", step=len(losses))
        test = evaluate(self.model, self.task.loss, self.test)
        self._require_finite(
            torch.tensor(test.loss, dtype=torch.float64), f"the test loss became {test.loss}", step=len(losses)
        )
        self.epoch += 1
        self.rows.append(
            {
                "epoch": self.epoch,
                "lr": lr,
                "train_loss": sum(losses) / len(self.train),
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "seconds": time.perf_counter() - started,
            }
        )
        self._save()

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return self.task.loss(self.model(inputs), targets)

    def _require_finite(self, values: Tensor, what: str, *, step: int) -> None:
        if torch.isfinite(values).all():
            return
        kept = self.run.checkpoints()
        last = f"the last good checkpoint is {kept[-1]}" if kept else "no epoch had been finished"
        raise TrainingDivergedError(
            f"{what} in epoch {self.epoch + 1}, step {step}; {last}. "
            f"Lower the learning rate (now {self.config.lr}) or rho (now {self.config.rho})."
        )

    def _save(self) -> None:
        """Metrics, weights, state, in this order: the state names an epoch only when all else of it is there."""
        self.run.write_metrics(self.rows)
        save_weights(self.model, self.run.weights_path(self.epoch))
        save_state(
            {
                "epoch": self.epoch,
                "config": hash_of_settings(self.config.to_dict()),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "random": RandomState(self.device).states,
            },
            self.run.state_path,
        )
        self._discard_old_weights()

    def _discard_old_weights(self) -> None:
        every = self.config.checkpoint_every
        for path in self.run.checkpoints():
            epoch = _epoch_of(path)
            if epoch < self.epoch and not (every and epoch % every == 0):
                path.unlink()

    def _resume(self) -> None:
        state: dict[str, Any] = read_state(self.run.state_path)
        try:
            if state["config"] != hash_of_settings(self.config.to_dict()):
                raise ValueError(f"{self.run.state_path} is of a run with other settings; train anew with --overwrite")
            if type(state["epoch"]) is not int or not 0 < state["epoch"] <= self.config.epochs:
                raise KeyError(f"epoch {state['epoch']!r}")
            load_weights(self.model, state["model"], source=str(self.run.state_path))
            self._load_optimizer(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            random_state = RandomState(self.device)
            random_state.states = state["random"]
            random_state.restore()
            self.epoch = state["epoch"]
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{self.run.state_path} is not the training state of this run ({error})") from None
        rows = self.run.metrics()[: self.epoch]
        if len(rows) < self.epoch:
            raise ValueError(
                f"{self.run.path / 'metrics.csv'} has {len(rows)} rows for {self.epoch} finished epochs; "
                "put the file back, or train anew with --overwrite"
            )
        self.rows = [row | {"epoch": epoch} for epoch, row in enumerate(rows, start=1)]
        if not is_whole(self.run.weights_path(self.epoch)):
            save_weights(self.model, self.run.weights_path(self.epoch))
        self._discard_old_weights()  # it may have been stopped before it did

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        try:
            self.optimizer.load_state_dict(state)
        except ValueError as error:
            raise KeyError(str(error)) from None


def _epoch_of(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))


def _all_weights(model: nn.Module) -> Tensor:
    return torch.stack([parameter.detach().abs().max() for parameter in model.parameters()])
