"""A model in training: what an epoch changes, and how it goes on from what an earlier one left."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.batches import Batch, num_examples, tensors
from landscape.checks import require_scalar
from landscape.denominators import denominator_of, examples
from landscape.forward import read
from landscape.losses import loss_of
from msam.checkpoints import is_whole, load_optimizer_state, load_weights, read_state, save_state, save_weights
from msam.choices import PRECISIONS, RHO_SCHEDULES, SCHEDULES
from msam.config import TrainConfig
from msam.data import draws_of, shuffled
from msam.evaluation import metrics_of
from msam.fastest import Fastest
from msam.processes import Processes
from msam.replay import RandomState
from msam.run import Run
from msam.schedules import RhoScheduler
from msam.tasks import Task
from msam.trained_on import record_data, require_same_data

MOST_SKIPPED = 32  # steps in a row; by then the loss is divided by 2¹⁶, from a scale of 2¹⁶


class TrainingDivergedError(ValueError):
    """The loss or the weights stopped being finite."""


class Trainer:
    """A model in training: everything that an epoch changes.

    Args:
        task: model, loss and data.
        config: settings.
        run: where to write. When it holds a training state, training goes on from there.
        device: where to compute.
        processes: those that share the micro-batches; the first of them writes.

    Attributes:
        failure: what the task's model, forward or loss raised in the step under way, or in the evaluation.

    Raises:
        ValueError: if the training state is damaged, missing or of other settings, or was trained on other data.
        ProcessLostError: if that is so for another process alone.
    """

    def __init__(self, task: Task, config: TrainConfig, run: Run, device: torch.device, processes: Processes) -> None:
        self.task, self.config, self.run, self.device, self.processes = task, config, run, device, processes
        self.train = task.train.to(device)
        self.held_out = {name: examples.to(device) for name, examples in task.held_out.items()}
        self.model = config.model(task).to(device)
        self.denominator = task.denominator or denominator_of(task.loss)
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
        self.optimizer = config.optimizer_for(self.model, processes=processes, scaler=self.scaler)
        steps = config.epochs * math.ceil(len(self.train) / config.batch_size)
        curve = SCHEDULES[config.schedule]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: curve(step / steps))
        radius = RHO_SCHEDULES[config.rho_schedule]
        self.rho = None if config.perturbation == "none" else RhoScheduler(self.optimizer, lambda n: radius(n / steps))
        self.epoch = 0
        self.skipped_in_a_row = 0
        self.failure: Exception | None = None
        self.rows: list[dict[str, float]] = []
        RandomState.seed(config.seed, device)
        if run.state_path.is_file():
            self._resume()
        elif any(_epoch_of(path) > 1 for path in run.checkpoints()):
            raise ValueError(
                f"{run.state_path} is gone, so training cannot go on after {run.checkpoints()[-1]}; "
                "put it back, or train anew with --overwrite"
            )
        else:
            task.require_finite(self.model)
        if self.epoch == 0 and processes.is_first:
            record_data(run, task)
            if config.checkpoint_every:
                save_weights(self.model, run.weights_path(0), vocabulary=task.vocabulary)

    def train_epoch(self) -> None:
        """One pass over the training data, then write everything.

        Raises:
            TrainingDivergedError: if a loss or a weight is not finite, or gradients overflow in step after step.
            ValueError: if that is because the data have numbers that are not finite.
        """
        started = time.perf_counter()
        lr = float(self.scheduler.get_last_lr()[0])
        self.model.train()
        order = shuffled(len(self.train), seed=self.config.seed, epoch=self.epoch)
        skipped_before = self.optimizer.skipped_steps
        losses, shares = [], []
        for number, batch in enumerate(self.train.batches(self.config.batch_size, order=order), start=1):
            skipped = self.optimizer.skipped_steps
            loss = self.optimizer.step(self._loss, self._augmented(batch, step=number))
            self.failure = None  # that of a way that was tried, with all it holds in memory
            self.scheduler.step()
            if self.rho is not None:
                self.rho.step()
            if self.optimizer.skipped_steps > skipped:
                self._require_progress(number)
                continue
            self.skipped_in_a_row = 0
            self._require_finite(loss, f"the training loss became {loss.item()}", step=number)
            shares.append(self.optimizer.denominator)
            losses.append(loss.item() * shares[-1])
        self._require_finite(_all_weights(self.model), "a weight is no longer finite", step=number)
        with self._of_the_task():
            seen = metrics_of(
                self.model, self.task.loss, self.held_out, forward=self.task.forward, denominator=self.denominator
            )
        test_loss = torch.tensor(seen["test_loss"], dtype=torch.float64, device="cpu")
        self._require_finite(test_loss, f"the test loss became {test_loss.item()}", step=number)
        self.epoch += 1
        row: dict[str, float] = {
            "epoch": self.epoch,
            "lr": lr,
            "train_loss": sum(losses) / sum(shares) if shares else float("nan"),
            **seen,
            "skipped_steps": self.optimizer.skipped_steps - skipped_before,
            "seconds": time.perf_counter() - started,
        }
        self.rows.append(row | self.task.probed(self.model, beside=row, before=self.rows[-1:]))
        self._save()

    def _augmented(self, batch: tuple[Batch, Tensor], *, step: int) -> tuple[Batch, Tensor]:
        """What both passes of every micro-batch see: of the whole batch, so that it is the same for any split of it."""
        if self.task.augment is None:
            return batch
        with self._of_the_task():
            found = self.task.augment(*batch, draws=draws_of(self.config.seed, self.epoch, step))
            wanted = num_examples(batch)
            if not (isinstance(found, tuple | list) and len(found) == 2) or num_examples(found) != wanted:
                number = f" of {num_examples(found)} examples" if tensors(found) else ""
                raise TypeError(
                    f"augment must return a pair, inputs and targets of {wanted} examples; got a "
                    f"{type(found).__name__}{number}"
                )
        return found[0], found[1]

    def _loss(self, batch: tuple[Batch, Tensor]) -> Tensor | tuple[Tensor, Tensor | float]:
        precision = PRECISIONS[self.config.precision]
        with self._of_the_task():
            with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
                outputs, targets = read(self.task.forward, self.model, batch)
                loss = loss_of(self.task.loss, outputs, targets)
            require_scalar(loss)
            return loss if self.denominator is examples else (loss, self.denominator(outputs, targets))

    @contextlib.contextmanager
    def _of_the_task(self) -> Iterator[None]:
        """What fails within is :attr:`failure`."""
        try:
            yield
        except Exception as error:
            self.failure = error
            raise

    def _require_progress(self, step: int) -> None:
        """A step was skipped because gradients overflowed; that ends when the scale is low enough, or never."""
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise TrainingDivergedError(
                f"gradients overflowed in {MOST_SKIPPED} steps in a row, up to epoch {self.epoch + 1}, step {step}, at "
                f"whatever scale; {self._last_good()}. Train with precision bf16 or float32."
            )

    def _require_finite(self, values: Tensor, what: str, *, step: int) -> None:
        if torch.isfinite(values).all():
            return
        for name, part in {"training": self.train, **self.held_out}.items():
            row = part.first_not_finite()
            if row is not None:
                raise ValueError(
                    f"{what} in epoch {self.epoch + 1}, step {step}; the {name} data hold numbers that are not finite, "
                    f"first in example {row}: mend or leave out such examples"
                )
        raise TrainingDivergedError(
            f"{what} in epoch {self.epoch + 1}, step {step}; {self._last_good()}. "
            f"Lower the learning rate (now {self.config.lr}) or rho (now {self.config.rho})."
        )

    def _last_good(self) -> str:
        kept = self.run.checkpoints()
        return f"the last good checkpoint is {kept[-1]}" if kept else "no epoch had been finished"

    def _save(self) -> None:
        """Metrics, weights, state, in this order: the state names an epoch only when all else of it is there."""
        if not self.processes.is_first:
            return
        self.run.write_metrics(self.rows)
        save_weights(self.model, self.run.weights_path(self.epoch), vocabulary=self.task.vocabulary)
        save_state(
            {
                "epoch": self.epoch,
                "config": self.config.identity,
                "vocabulary": self.task.vocabulary,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "rho": {} if self.rho is None else self.rho.state_dict(),
                "execution": getattr(self.optimizer.execution, "chosen", None),
                "scaler": {} if self.scaler is None else self.scaler.state_dict(),
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

    def _require_same_data(self) -> None:
        """Training must not go on with other data than it began with, in whatever process."""
        failure = None
        try:
            require_same_data(self.run, self.task, ordered=True, way_out="or train anew with --overwrite")
        except (OSError, ValueError) as error:
            failure = error
        self.processes.require_all(failure, device=self.device)

    def _resume(self) -> None:
        state: dict[str, Any] = read_state(self.run.state_path)
        try:
            if state["config"] != self.config.identity:
                raise ValueError(f"{self.run.state_path} is of a run with other settings; train anew with --overwrite")
            if type(state["epoch"]) is not int or not 0 < state["epoch"] <= self.config.epochs:
                raise KeyError(f"epoch {state['epoch']!r}")
            self.task.require_vocabulary(state.get("vocabulary", ""), source=str(self.run.state_path))
            self._require_same_data()
            load_weights(self.model, state["model"], source=str(self.run.state_path))
            fresh = self.config.base_optimizer(nn.Linear(2, 1, bias=False))
            load_optimizer_state(self.optimizer, state["optimizer"], fresh=fresh, source=str(self.run.state_path))
            self.scheduler.load_state_dict(state["scheduler"])
            if self.rho is not None:
                self.rho.load_state_dict(state["rho"])
            if isinstance(self.optimizer.execution, Fastest) and state["execution"] is not None:
                self.optimizer.execution.choose(state["execution"])
            if self.scaler is not None:
                self.scaler.load_state_dict(state["scaler"])
            random_state = RandomState(self.device)
            random_state.states = state["random"]
            random_state.restore()
            self.epoch = state["epoch"]
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{self.run.state_path} is not the training state of this run ({error})") from None
        self.rows = self.run.metrics()[: self.epoch]
        if len(self.rows) < self.epoch:
            raise ValueError(
                f"{self.run.path / 'metrics.csv'} has {len(self.rows)} rows for {self.epoch} finished epochs; "
                "put the file back, or train anew with --overwrite"
            )
        if not self.processes.is_first:
            return
        if not is_whole(self.run.weights_path(self.epoch)):
            save_weights(self.model, self.run.weights_path(self.epoch), vocabulary=self.task.vocabulary)
        self._discard_old_weights()  # it may have been stopped before it did


def _epoch_of(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))


def _all_weights(model: nn.Module) -> Tensor:
    return torch.stack([parameter.detach().abs().max() for parameter in model.parameters() if parameter.numel()])
