"""A task: what a checkpoint needs to become a loss over data again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakValueDictionary

import torch
from torch import nn

from landscape.batches import num_examples, split, tensors
from landscape.checks import require_numbers
from landscape.denominators import Denominator, denominator_of
from landscape.forward import Forward, read, supervised
from landscape.losses import Loss, loss_of
from landscape.objective import Objective
from landscape.processes import Sharing
from msam.data import Augmentation, Examples
from msam.tasks.failing import blaming

Split = Literal["train", "validation", "test"]
_FEW = 4  # examples that a loss is tried on
_SAME = 1e-4  # relative difference that is put down to rounding, in single precision


@dataclass(frozen=True)
class Task:
    """A model to build, a loss, and training, validation and test data.

    Attributes:
        name: as it stands in a config.
        build: makes the untrained model, drawing from the global random state; a new one each time.
        loss: ``loss(outputs, targets)``, a mean over the batch.
        train: training examples.
        test: test examples, never trained on.
        about: one sentence on where the data come from and how they were split; results and reports begin with it.
        forward: how a batch becomes outputs and targets, ``forward(model, batch)``; see :func:`supervised`.
        validation: examples to choose settings by, never trained on; None where there are none.
        probe: what is to be watched besides loss and accuracy: model -> numbers by name, the same names every time.
            Training writes them into ``metrics.csv`` after every epoch.
        augment: how training changes its batches at random; no measurement and no evaluation does.
        denominator: what the mean of a batch was divided by, ``denominator(outputs, targets)``; read off the loss where
            it is a cross-entropy, and examples otherwise, when left out. See :class:`Objective`.
        vocabulary: a hash of the words that the inputs are numbers of; empty where they are no words. Checkpoints keep
            it, so that weights are never given the numbers of other words.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Loss
    train: Examples
    test: Examples
    about: str = ""
    forward: Forward = supervised
    validation: Examples | None = None
    probe: Callable[[nn.Module], Mapping[str, float]] | None = None
    augment: Augmentation | None = None
    denominator: Denominator | None = None
    vocabulary: str = ""
    _built: WeakValueDictionary[int, nn.Parameter] = field(
        default_factory=WeakValueDictionary, init=False, repr=False, compare=False
    )

    def require_usable(self) -> None:
        """Find out early whether the parts are what they should be.

        Raises:
            TypeError: if ``build`` is no function, or the data are not :class:`Examples` of tensors.
            ValueError: if a split is empty or without numbers, or its inputs and targets differ in number, or the loss
                says that it is no mean.
        """
        optional = [name for name in ("augment", "denominator") if getattr(self, name) is not None]
        for name in ("build", "loss", "forward", *optional):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function; got a {type(getattr(self, name)).__name__}")
        for name in ("train", "test") if self.validation is None else ("train", "validation", "test"):
            examples = getattr(self, name)
            if not isinstance(examples, Examples):
                raise TypeError(f"{name} must be msam.Examples(inputs, targets); got a {type(examples).__name__}")
            if not isinstance(examples.targets, torch.Tensor) or not tensors(examples.inputs):
                part = "inputs" if isinstance(examples.targets, torch.Tensor) else "targets"
                kind = type(getattr(examples, part)).__name__
                raise TypeError(f"the {part} of {name} must be tensors; got a {kind}, which torch.as_tensor converts")
            require_numbers((f"a tensor of {name}", found) for found in tensors((examples.inputs, examples.targets)))
            number = num_examples((examples.inputs, examples.targets))
            if number == 0:
                raise ValueError(f"{name} has no examples")
        if self.denominator is None:
            denominator_of(self.loss)  # which refuses a sum

    def require_vocabulary(self, known: str, *, source: str) -> None:
        """Before weights are used that were trained on the numbers of words.

        Raises:
            ValueError: if the words are others now.
        """
        if known and self.vocabulary != known:
            raise ValueError(
                f"{source} was trained with the vocabulary {known}, and the task {self.name} has "
                f"{self.vocabulary or 'none'} now; put the training texts, or the tokenizer, back as they were"
            )

    def model(self, *, seed: int) -> nn.Module:
        """An untrained model; the global random state is left as it was.

        Raises:
            TypeError: if what is built is none.
            ValueError: if building it fails, it has no numbers, or a trainable parameter of an earlier one, which may
                have been trained since.
        """
        with torch.random.fork_rng([]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # models are built on the CPU, whatever the default device
            with blaming(self.name, where="to build its model"):
                model = self.build()
        if not isinstance(model, nn.Module):
            raise TypeError(f"the task {self.name} builds a {type(model).__name__}; it must build a torch.nn.Module")
        held = [*model.named_parameters(), *model.named_buffers()]
        require_numbers((f"{name} of the model of the task {self.name}", tensor) for name, tensor in held)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and self._built.get(id(parameter)) is parameter:
                raise ValueError(
                    f"the task {self.name} builds models that share the parameter {name}, so that training one changes "
                    "another; let its build make a new model each time, for example copy.deepcopy of one"
                )
        self._built.update({id(parameter): parameter for parameter in model.parameters()})
        return model

    def require_startable(self, model: nn.Module) -> None:
        """Find out early whether training can begin: see :meth:`require_finite` and :meth:`require_mean`."""
        self.require_finite(model)
        self.require_mean(model)

    def require_finite(self, model: nn.Module) -> None:
        """Before the first step, which would be blamed for it; of buffers, some of which are masks, infinite ones pass.

        Raises:
            ValueError: naming the first parameter or buffer of an untrained model that holds what is no number.
        """
        wrong = [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]
        wrong += [name for name, buffer in model.named_buffers() if torch.isnan(buffer).any()]
        if wrong:
            raise ValueError(
                f"the model of the task {self.name} begins with weights that are not finite, first in {wrong[0]}; mend "
                "its build, or the file that it loads"
            )

    def require_mean(self, model: nn.Module) -> None:
        """Find out early whether the loss is a sum over its batch, by a few training examples.

        What fails in it is left to be said in training.

        Args:
            model: untrained, to be thrown away: its buffers may change.

        Raises:
            ValueError: if it is one: micro-batches would be weighted wrongly.
        """
        most = min(_FEW, len(self.train)) // 2 * 2
        if most == 0:
            return
        few = next(self.train.batches(most))
        try:
            with torch.random.fork_rng([]), torch.no_grad():
                parts = (few, *split(few, [most // 2] * 2))
                found = [float(loss_of(self.loss, *read(self.forward, model.eval(), part))) for part in parts]
        except Exception:  # whatever the task's own parts raise
            return
        whole, one, other = found
        scale = abs(one) + abs(other)
        if abs(whole) > _SAME * scale and abs(whole - one - other) <= _SAME * scale:
            raise ValueError(
                f"the loss of the task {self.name} is a sum over its batch, {one:.4g} and {other:.4g} of two halves, "
                f"{whole:.4g} of both; it must be their mean"
            )

    def probed(
        self, model: nn.Module, *, beside: Collection[str] = (), before: Sequence[Collection[str]] = ()
    ) -> dict[str, float]:
        """What the probe finds in a model; nothing where there is no probe.

        Args:
            model: in whatever mode.
            beside: names that are taken.
            before: the names of earlier rows, those of training included.

        Raises:
            ValueError: if it fails, what it finds is no mapping of names to numbers, or the names are not new ones, or
                not those of before.
        """
        if self.probe is None:
            return {}
        try:
            with torch.no_grad():
                found = {str(name): float(value) for name, value in self.probe(model).items()}
        except Exception as error:  # whatever the user's function raises
            raise ValueError(
                f"the probe of the task {self.name} must return numbers by name; it failed with "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        for name in found.keys() & set(beside):
            raise ValueError(f"the probe of the task {self.name} names {name!r}, which training writes itself")
        if any({*beside, *found} != set(row) for row in before):
            raise ValueError(
                f"the probe of the task {self.name} names {', '.join(found) or 'nothing'} now, and others "
                "before; name the same every time"
            )
        return found

    def examples(self, split: Split) -> Examples:
        """The examples of one split.

        Raises:
            ValueError: if there are none: a task need not have a validation set.
        """
        found: Examples | None = getattr(self, split)
        if found is None:
            raise ValueError(f"the task {self.name} has no {split} set with these settings; name train or test")
        return found

    @property
    def held_out(self) -> dict[str, Examples]:
        """The examples that are not trained on, by the names of their splits; the last is the test set."""
        validated = {} if self.validation is None else {"validation": self.validation}
        return {**validated, "test": self.test}

    def objective(
        self,
        model: nn.Module,
        *,
        split: Split = "train",
        batch_size: int = 1000,
        parameters: str = "*",
        sharing: Sharing | None = None,
    ) -> Objective:
        """The loss of a model over one split, in evaluation mode, on the device of the model.

        The model itself stays in the mode it is in. The objective is a function of the trainable parameters whose names
        match the pattern. Processes may share the work; see :class:`Objective`.
        """
        examples = self.examples(split)
        modes = [(module, module.training) for module in model.modules()]
        try:
            data = list(examples.batches(batch_size))
            return Objective(
                model.eval(),
                self.loss,
                data,
                forward=self.forward,
                denominator=self.denominator,
                parameters=parameters,
                split=split,
                sharing=sharing,
            )
        except (RuntimeError, LookupError, ArithmeticError, AttributeError):
            with blaming(self.name, where=f"on its {split} data"):
                raise
        finally:
            for module, mode in modes:
                module.training = mode
