"""A task: what a checkpoint needs to become a loss over data again."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from landscape.objective import Objective
from landscape.processes import Sharing
from landscape.terms import Loss
from msam.data import Examples, digits_examples, stratified, with_label_noise
from msam.models import cnn, group_norm, mlp


@dataclass(frozen=True)
class Task:
    """A model to build, a loss, and training and test data.

    Attributes:
        name: as it stands in a config.
        build: makes the untrained model, drawing from the global random state.
        loss: ``loss(outputs, targets)``, a mean over the batch.
        train: training examples.
        test: test examples, never trained on.
        about: one sentence on where the data come from and how they were split.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Loss
    train: Examples
    test: Examples
    about: str

    def model(self, *, seed: int) -> nn.Module:
        """An untrained model; the global random state is left as it was."""
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)  # models are built on the CPU
            return self.build()

    def objective(
        self,
        model: nn.Module,
        *,
        split: Literal["train", "test"] = "train",
        batch_size: int = 1000,
        sharing: Sharing | None = None,
    ) -> Objective:
        """The loss of a model over one split, in evaluation mode, on the device of the model.

        The model itself stays in the mode it is in. Processes may share the work; see :class:`Objective`.
        """
        device = next(model.parameters()).device
        examples: Examples = getattr(self, split)
        modes = [(module, module.training) for module in model.modules()]
        try:
            data = list(examples.to(device).batches(batch_size))
            return Objective(model.eval(), self.loss, data, split=split, sharing=sharing)
        finally:
            for module, mode in modes:
                module.training = mode


def digits(
    *,
    model: Literal["mlp", "cnn-bn", "cnn-gn"] = "mlp",
    hidden: int = 128,
    width: int = 16,
    train_examples: int = 1000,
    label_noise: float = 0.0,
    data_seed: int = 0,
) -> Task:
    """Handwritten digits, 8x8 pixels, embedded in scikit-learn: 1,000 to train on, 797 to test on.

    Args:
        model: a perceptron, or a small convolutional net with batch or group norm.
        hidden: hidden units of the perceptron.
        width: channels of the convolutional nets, a multiple of four.
        train_examples: size of the stratified training subset: 10 to 990, or all 1,000.
        label_noise: fraction of the training labels drawn at random, 0 to 1. Test labels are always true.
        data_seed: of the subset and of the noise; the split into training and test data is always the same.
    """
    if not (10 <= train_examples <= 990 or train_examples == 1000):  # a stratified rest needs one of each class
        raise ValueError(f"train_examples must be between 10 and 990, or 1000; got {train_examples}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be between 0 and 1; got {label_noise}")
    if not 0 <= data_seed < 2**32:
        raise ValueError(f"data_seed must be between 0 and 2**32 - 1; got {data_seed}")
    if hidden < 1 or width < 4 or width % 4:
        raise ValueError(f"hidden must be positive and width a positive multiple of 4; got {hidden} and {width}")
    builders: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: mlp(inputs=64, hidden=hidden, classes=10),
        "cnn-bn": lambda: cnn(channels=1, width=width, classes=10, norm=nn.BatchNorm2d),
        "cnn-gn": lambda: cnn(channels=1, width=width, classes=10, norm=group_norm),
    }
    train, test = stratified(digits_examples(), 1000, seed=0)
    if train_examples < 1000:
        train, _ = stratified(train, train_examples, seed=data_seed)
    train = with_label_noise(train, label_noise, classes=10, seed=data_seed)
    noise = f", {label_noise:.0%} of the training labels drawn at random" if label_noise else ""
    about = f"scikit-learn's digits: {train_examples} training and {len(test)} test images, stratified{noise}"
    return Task("digits", builders[model], functional.cross_entropy, train, test, about)


TASKS: dict[str, Callable[..., Task]] = {"digits": digits}


def load_task(name: str, settings: Mapping[str, Any]) -> Task:
    """Build a task by name.

    Args:
        name: one of ``TASKS``.
        settings: keyword arguments of the task; strings are converted to the type of the argument.

    Raises:
        ValueError: if there is no such task or setting, or a value is not of its type or out of range.
    """
    return TASKS[_known_task(name)](**complete_settings(name, settings))


def complete_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a task: the given ones in their types, the defaults for the others.

    Raises:
        ValueError: if there is no such task or setting, or a value is not of its type.
    """
    function = TASKS[_known_task(name)]
    known = inspect.signature(function).parameters
    kinds = typing.get_type_hints(function)
    for key in settings:
        if key not in known:
            raise ValueError(f"task {name!r} has no setting {key!r}; {_hint(key, list(known))}")
    return {key: _convert(key, settings.get(key, entry.default), kinds[key]) for key, entry in known.items()}


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; {_hint(name, list(TASKS))}")
    return name


def _convert(name: str, value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        options = list(typing.get_args(kind))
        if value not in options:
            raise ValueError(f"there is no {name} {value!r}; {_hint(str(value), options)}")
        return value
    try:
        converted = kind(value)
    except (TypeError, ValueError, OverflowError):
        converted = None
    rounded = kind is int and not isinstance(value, str) and converted != value
    if converted is None or isinstance(value, bool) or rounded:
        raise ValueError(f"{name} must be of type {kind.__name__}; got {value!r}")
    return converted


def _hint(wrong: str, options: list[str]) -> str:
    near = difflib.get_close_matches(wrong, options, n=1)
    return f"did you mean {near[0]!r}? There are: {', '.join(options)}" if near else f"there are: {', '.join(options)}"
