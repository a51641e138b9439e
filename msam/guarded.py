"""Executions that do not serve every model: held against another one, which takes over where they cannot be used."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.arguments import integer
from landscape.layers import UnsupportedError
from landscape.stacks import Ascent
from landscape.widened import Narrowing
from msam.averages import all_finite
from msam.descents import AtPerturbation
from msam.doubled import doubled
from msam.dropout import SameMasks
from msam.execution import Execution, OneByOne
from msam.replay import RandomState, buffers_kept, buffers_kept_on_error
from msam.step import Gradient, Outcome, Step

SPLITS = 8  # ways of splitting a batch that are checked
FINE = 1e-5  # of a gradient in double precision, where rounding is 1e-12: a term that is no mean may be this small
_READS_VALUES = (  # where torch writes a page
    "looks at the values of a tensor, as transformers do at an attention mask, which torch.func does not allow"
)


class Guarded(Execution):
    """An execution that is held against another, and falls back to it with one warning that says why.

    The two must give one gradient, in evaluation mode, on the first batch, on the first of each of the first eight
    ways in which batches are split, and on every ``check_every``-th: on all of it within the rounding of its precision,
    and on a few examples within 1e-5, in double precision, if model and closure can compute in it. Where they do not,
    or the model, the closure or the descent cannot be served, the other execution is used from then on. A step that is
    reported on, has no perturbation or has no finite gradient to compare is left to the other one without a word.

    Args:
        otherwise: the other execution, ``OneByOne()`` when left out.
        check_every: steps between two comparisons.

    Attributes:
        reason: why this execution is not used; None as long as it is.
    """

    manner: str  # completes "micro-batches are not computed ..."

    def __init__(self, *, otherwise: Execution | None = None, check_every: int = 1000) -> None:
        if integer(check_every, "check_every") < 1:
            raise ValueError(f"check_every must be at least 1; got {check_every}")
        self.otherwise = OneByOne() if otherwise is None else otherwise
        self.check_every = check_every
        self.reason: str | None = None
        self._splits: set[tuple[int, ...]] = set()  # that have been checked
        self._since = 0  # steps since the last comparison

    def outcome(self, step: Step) -> Outcome:
        """See :class:`Execution`."""
        if not step.perturbs or self.reason is not None or step.observes:
            return self.otherwise.outcome(step)
        random_state = RandomState(step.parameters[0].device)
        try:
            if not isinstance(step.dropout, SameMasks):
                raise UnsupportedError(
                    f"each of its passes would draw the same dropout masks, and {step.dropout!r} asks for others"
                )
            if self._is_due(step) and not self._agrees(step):
                return self.otherwise.outcome(step)
            with buffers_kept_on_error(step.module):
                outcome = self._all_at_once(step, random_state)
            self._since += 1
            return outcome
        except UnsupportedError as error:
            self.reason = str(error)
            self._forget()
            random_state.restore()
        warnings.warn(
            f"micro-batches are not computed {self.manner}, but by {type(self.otherwise).__name__}: {self.reason}",
            stacklevel=4,
        )
        return self.otherwise.outcome(step)

    @abstractmethod
    def _all_at_once(self, step: Step, before: RandomState) -> Outcome:
        """The outcome, by this execution.

        Args:
            step: the step.
            before: the random state that it begins at.

        Raises:
            UnsupportedError: if it cannot be had.
        """

    def _forget(self) -> None:
        """Let go of what was kept from step to step."""

    def _is_due(self, step: Step) -> bool:
        if self._since >= self.check_every:
            return True
        split = split_of(step)
        return split not in self._splits and len(self._splits) < SPLITS

    def _agrees(self, step: Step) -> bool:
        """Hold both executions against each other; False where there is nothing finite to compare."""
        module = module_of(step)
        modes = [(part, part.training) for part in module.modules()]
        if any(training and isinstance(part, _BatchNorm) for part, training in modes):
            raise UnsupportedError("batch norm in training mode normalises each micro-batch by its own statistics")
        require_plain(module)
        random_state = RandomState(step.parameters[0].device)
        try:
            with buffers_kept(module):
                expected = self.otherwise.outcome(step)
            if not random_state.is_current:  # the masks of all at once would be others: they are left out for once
                module.eval()
                random_state.restore()
                with buffers_kept(module):
                    expected = self.otherwise.outcome(step)
            if expected.denominator == 0 or not bool(expected.finite) or not bool(all_finite(expected.gradient)):
                return False
            random_state.restore()
            with buffers_kept(module):
                ours = self._tried(step, random_state)
            require_equal(ours.gradient, expected.gradient, self._precision)
            random_state.restore()
            self._compare_finely(step, random_state)
        finally:
            for part, training in modes:
                part.training = training
            random_state.restore()
        self._splits.add(split_of(step))
        self._since = 0
        return True

    def _compare_finely(self, step: Step, before: RandomState) -> None:
        """Hold both against each other in double precision, where the model and the closure compute in it."""
        if step.parameters[0].dtype == torch.float64:
            return
        try:
            with warnings.catch_warnings(), doubled(step) as few, buffers_kept(step.module):
                warnings.simplefilter("ignore")  # that this is no way to use the model
                with Narrowing() as narrowing:
                    expected = self.otherwise.outcome(few)
                before.restore()
                ours = self._all_at_once(few, before)
        except Exception:  # the closure has other tensors that are not, or asks for so many examples
            return
        if not (narrowing.seen or expected.denominator == 0 or not bool(all_finite(expected.gradient))):
            require_equal(ours.gradient, expected.gradient, None, tolerance=FINE)

    def _tried(self, step: Step, before: RandomState) -> Outcome:
        """What works one after another and fails all at once cannot be taken all at once."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one after another has said what there is to say
                return self._all_at_once(step, before)
        except UnsupportedError:
            raise
        except Exception as error:
            first, *_ = str(error).splitlines() or [""]
            said = _READS_VALUES if ".item() on a Tensor" in first else f"fails with {type(error).__name__}: {first}"
            raise UnsupportedError(f"the model or the closure {said}") from error

    @property
    def _precision(self) -> torch.dtype | None:
        """The coarsest type that was computed in, where that is known."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        self._forget()
        return self.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def require_equal(
    ours: Gradient, theirs: Gradient, precision: torch.dtype | None, *, tolerance: float | None = None
) -> None:
    """Compare two gradients of one batch, within what rounding in some precision does, or within a tolerance.

    Raises:
        UnsupportedError: if they differ by more than rounding does.
    """
    if [slope is None for slope in ours] != [slope is None for slope in theirs]:
        raise UnsupportedError("a weight is used by some micro-batches only")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    far = torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt()
    long = torch.stack([b.square().sum() for _, b in pairs]).sum().sqrt()
    if tolerance is None:
        tolerance = 10 * torch.finfo(far.dtype).eps ** 0.5  # ResNet-20 in float32 differs by 5e-4 in rounding alone
        if precision is not None:
            tolerance = max(tolerance, 10 * torch.finfo(precision).eps)
    if not far <= tolerance * long:
        raise UnsupportedError(
            f"on one batch its gradient was off by {float(far / long):.1e}; the loss is perhaps no plain "
            "mean over examples, or a weight is used outside its layer"
        )


def require_plain(module: nn.Module) -> None:
    """Compiled code neither looks at layers one by one nor can be vectorised.

    Raises:
        UnsupportedError: if the model or a part of it is compiled.
    """
    for name, part in module.named_modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise UnsupportedError(f"{name or 'the model'} is compiled; its layers cannot be taken apart")


def module_of(step: Step) -> nn.Module:
    """The model of a step.

    Raises:
        UnsupportedError: if there is none.
    """
    if step.module is None:
        raise UnsupportedError("mSAM was not given the module")
    return step.module


def ascent_of(step: Step) -> Ascent:
    """The perturbation of a step.

    Raises:
        UnsupportedError: if it is not one of the two that all micro-batches can take at once.
    """
    ascent = Ascent.of(step.descent.perturbation) if type(step.descent) is AtPerturbation else None
    if ascent is None:
        raise UnsupportedError(f"{step.descent!r} is neither GradientAscent nor AdaptiveAscent in the L2 ball")
    return ascent


def require_no_draws(step: Step, before: RandomState) -> None:
    """Where micro-batches have streams of their own, nothing may be drawn for all at once.

    Raises:
        UnsupportedError: if something was.
    """
    if step.seed is not None and not before.is_current:
        raise UnsupportedError("the model draws random numbers, and with a seed each micro-batch has its own")


def split_of(step: Step) -> tuple[int, ...]:
    """The numbers of examples of the step's own micro-batches."""
    return tuple(step.sizes[step.own.start : step.own.stop])
