"""Everything that decides what a training run computes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from landscape.manifest import hash_of_settings
from landscape.perturbations import Perturbation
from landscape.progress import Report, unreported
from msam.choices import (
    BALLS,
    BATCH_NORMS,
    DROPOUTS,
    EXECUTIONS,
    METHODS,
    OPTIMIZERS,
    PERTURBATIONS,
    PRECISIONS,
    RHO_SCHEDULES,
    SCHEDULES,
    perturbation_of,
    perturbed_of,
)
from msam.descents import Descent
from msam.execution import OneByOne
from msam.optimizer import mSAM
from msam.processes import Processes
from msam.selections import train_only
from msam.tasks import Task
from msam.tasks.registry import complete_settings, load_task

# entries that older files lack, with what their runs were trained with
LATER = {"dropout": "same", "trainable": "all", "deterministic": False}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run; they are checked when the config is made.

    Attributes:
        task: name of the task.
        settings: keyword arguments of the task, the model among them.
        perturbation: ``"none"``, ``"sam"``, ``"asam"``, ``"fsam"`` (Friendly SAM), ``"gcsam"``, ``"random"``,
            ``"sam-unnormalised"`` (a perturbation of ρ times the gradient), or Universal SAM: ``"usam-trace"``,
            ``"usam-frobenius"``, ``"usam-determinant"``.
        rho: radius of the perturbation.
        rho_schedule: of the radius over all steps: ``"constant"``, ``"cosine"`` down to zero, or ``"rising"`` from it.
        ball: in which norm the radius is: ``"l2"`` or ``"linf"``.
        ascent_steps: steps of ascent, each with a look at the gradient; 1 is that of SAM.
        perturbed: which parameters are perturbed: ``"all"``, ``"norm"`` (those of normalisation layers),
            ``"all-but-norm"``, or a pattern of names such as ``"head.*"``.
        trainable: which parameters are trained and measured, ``"all"`` or a pattern of names such as ``"*lora_*"``;
            the others are frozen.
        num_microbatches: micro-batches per batch, each perturbed on its own.
        epochs: passes over the training data.
        batch_size: examples per step.
        optimizer: the base optimizer, ``"sgd"`` or ``"adamw"``.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: of the base optimizer.
        schedule: of the learning rate, ``"cosine"`` to zero over all steps, or ``"constant"``.
        seed: of the initial weights, the order of the data and the model's own randomness.
        execution: of the micro-batches, ``"one-by-one"``, ``"layerwise"``, ``"vectorised"``, or the ``"fastest"`` of
            these, found on the first steps; the same results within rounding.
        device_batch_size: the most examples that go through the model together when micro-batches are taken one by
            one; 0 for no limit. The same results within rounding, but for batch norm, which sees the parts.
        batch_norm: what a micro-batch is normalised by in training: the statistics of the ``"shard"``, its own, or
            ``"running"`` ones, which then stay as they are at the start, or those of the whole ``"batch"``.
        dropout: masks that the second pass of a micro-batch draws: the ``"same"`` as the first, or ``"fresh"`` ones.
        precision: of the passes: ``"float32"``, or automatic mixed precision with ``"bf16"`` or ``"fp16"``; the latter
            scales the loss, and skips steps in which a gradient overflows.
        max_grad_norm: the averaged gradient is shortened to this L2 norm where it is longer; 0 for no limit.
        deterministic: only kernels that give the same bits each time, where a device has a choice; slower there.
        checkpoint_every: keep the weights of every so many epochs, the initial ones too; 0 keeps the last only.
    """

    task: str = "digits"
    settings: Mapping[str, Any] = field(default_factory=dict)
    perturbation: str = "sam"
    rho: float = 0.05
    rho_schedule: str = "constant"
    ball: str = "l2"
    ascent_steps: int = 1
    perturbed: str = "all"
    num_microbatches: int = 1
    epochs: int = 20
    batch_size: int = 100
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    seed: int = 0
    checkpoint_every: int = 0
    execution: str = "one-by-one"
    device_batch_size: int = 0
    batch_norm: str = "shard"
    dropout: str = "same"
    precision: str = "float32"
    max_grad_norm: float = 0.0
    trainable: str = "all"
    deterministic: bool = False

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            _require(
                isinstance(value, kinds.get(str(entry.type), Mapping))
                and isinstance(value, bool) == (entry.type == "bool"),
                f"the config entry {entry.name} must be of type {entry.type}; got {value!r}",
            )
        for name, options in (
            ("perturbation", PERTURBATIONS),
            ("rho_schedule", tuple(RHO_SCHEDULES)),
            ("ball", tuple(BALLS)),
            ("optimizer", tuple(OPTIMIZERS)),
            ("schedule", tuple(SCHEDULES)),
            ("execution", tuple(EXECUTIONS)),
            ("batch_norm", tuple(BATCH_NORMS)),
            ("dropout", tuple(DROPOUTS)),
            ("precision", tuple(PRECISIONS)),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"there is no {name} {getattr(self, name)!r}; there are: {', '.join(options)}")
        for name in ("num_microbatches", "ascent_steps", "epochs", "batch_size"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("rho", "lr", "momentum", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} must be a finite number, zero or more; got {value}")
        _require(0 <= self.seed < 2**63, f"seed must be an integer from 0 on; got {self.seed}")
        for name in ("checkpoint_every", "device_batch_size"):
            _require(getattr(self, name) >= 0, f"{name} must be 0 or more; got {getattr(self, name)}")
        self.ascent()  # which refuses what is not defined
        _require(
            self.num_microbatches <= self.batch_size,
            f"a batch of {self.batch_size} examples cannot be split into {self.num_microbatches} micro-batches",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A config read back from JSON.

        Raises:
            ValueError: if an entry is unknown, of another type, or not allowed.
        """
        unknown = sorted(set(values) - {entry.name for entry in dataclasses.fields(cls)})
        _require(not unknown, f"the config has entries this version does not know: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @property
    def identity(self) -> str:
        """A hash of all entries, which files know their config by: the same as before an entry was added."""
        return hash_of_settings({k: v for k, v in self.to_dict().items() if k not in LATER or v != LATER[k]})

    def completed(self) -> Self:
        """With all settings that the task has by now, so that a config of an older file is equal to one made today.

        Raises:
            ValueError: if the task or a setting is unknown.
        """
        return dataclasses.replace(self, settings=complete_settings(self.task, self.settings))

    def entries(self, names: Collection[str]) -> dict[str, Any]:
        """The named entries, by name; in place of ``settings`` all that the task has now, each by its own."""
        found = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name in names}
        if found.pop("settings", None) is None:
            return found
        return found | {f"the setting {name}": value for name, value in self.completed().settings.items()}

    def load_task(self, report: Report = unreported) -> Task:
        """The task, its data loaded, on which this config can be trained.

        Args:
            report: of data being read.

        Raises:
            ValueError: if the task or a setting is unknown, or see :meth:`require_trainable`.
        """
        task = load_task(self.task, self.settings, report=report)
        self.require_trainable(task)
        return task

    def require_trainable(self, task: Task) -> None:
        """Find out early whether every batch of a task can be split, and its model be trained.

        Raises:
            ValueError: if the last batch is smaller than the micro-batches, or no parameter of the model is among those
                to be trained or to be perturbed.
        """
        if (self.perturbed, self.trainable) != ("all", "all"):
            perturbed_of(self.model(task), self.perturbed)
        last = len(task.train) % self.batch_size or self.batch_size
        _require(
            last >= self.num_microbatches,
            f"the last batch of an epoch would have {last} examples, fewer than the {self.num_microbatches} "
            f"micro-batches; choose a batch size that divides {len(task.train)}, or leaves a larger rest",
        )

    def model(self, task: Task) -> nn.Module:
        """The untrained model of a task, what is not trained frozen.

        Raises:
            ValueError: if no parameter is to be trained.
        """
        model = task.model(seed=self.seed)
        if self.trainable != "all":
            train_only(model, self.trainable)
        _require(
            any(parameter.requires_grad for parameter in model.parameters()),
            f"the model of the task {task.name} has no parameters that are trained; set requires_grad on some",
        )
        return model

    def ascent(self) -> Perturbation | Descent | None:
        """The perturbation that the run trains with."""
        return perturbation_of(self.perturbation, self.rho, ball=self.ball, steps=self.ascent_steps, seed=self.seed)

    def base_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that takes the averaged gradient."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def optimizer_for(
        self, model: nn.Module, *, processes: Processes | None = None, scaler: torch.amp.GradScaler | None = None
    ) -> mSAM:
        """The optimizer of the run, around a base optimizer of the model's weights."""
        return mSAM(
            self.base_optimizer(model),
            self.ascent(),
            num_microbatches=self.num_microbatches,
            module=model,
            perturbed=None if self.perturbation == "none" else perturbed_of(model, self.perturbed),
            execution=EXECUTIONS[self.execution](OneByOne(device_batch_size=self.device_batch_size or None)),
            batch_norm=BATCH_NORMS[self.batch_norm](),
            dropout=DROPOUTS[self.dropout](),
            processes=processes,
            scaler=scaler,
            max_grad_norm=self.max_grad_norm or None,
            seed=self.seed,
        )

    @property
    def method(self) -> str:
        """What a person calls this way of training."""
        base = OPTIMIZERS[self.optimizer]
        if self.perturbation == "none" or self.rho == 0:
            return base
        name = METHODS[self.perturbation]
        several = (
            name if self.num_microbatches == 1 else f"m{name}" if name in ("SAM", "ASAM") else f"micro-batch {name}"
        )
        return several if base == "SGD" else f"{several} on {base}"


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)
