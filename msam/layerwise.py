"""All micro-batches of a step at once, layer by layer, through the user's own modules."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.perturbations import GradientAscent
from msam.averages import all_finite
from msam.descents import AtPerturbation
from msam.execution import Execution, OneByOne
from msam.layers import Rule, UnsupportedError, rule_for
from msam.replay import RandomState, buffers_kept
from msam.shards import Shards
from msam.step import Gradient, Outcome, Step


class Layerwise(Execution):
    """Two passes over the whole batch, in which every layer perturbs its weights for each micro-batch on its own.

    The first pass takes the gradients of the layers' outputs only, the second one product per layer for all
    micro-batches: five thirds of a step of the base optimizer for any number of micro-batches, below the two of SAM.

    It serves ``GradientAscent`` on models whose weights all lie in linear, embedding, layer-norm and group-norm layers
    that are called once per pass with one row per example, and losses that are means over examples: on every batch, not
    only where no target is ignored. On the first step it is held against the other execution. Where it cannot be used,
    or disagrees, one warning says why, and the other execution is used from then on.

    Args:
        otherwise: the execution to fall back on and to be held against, ``OneByOne()`` when left out.
    """

    def __init__(self, *, otherwise: Execution | None = None) -> None:
        self.otherwise = OneByOne() if otherwise is None else otherwise
        self.reason: str | None = None  # why it is not used
        self._checked = False

    def outcome(self, step: Step) -> Outcome:
        """See :class:`Execution`."""
        if not step.perturbs or self.reason is not None or step.observes:
            return self.otherwise.outcome(step)
        try:
            if not self._checked:
                self._check(step)
                self._checked = True
            return self._all_at_once(step)
        except UnsupportedError as error:
            self.reason = str(error)
        warnings.warn(
            f"micro-batches are not computed layer by layer, but by {type(self.otherwise).__name__}: {self.reason}",
            stacklevel=4,
        )
        return self.otherwise.outcome(step)

    def _check(self, step: Step) -> None:
        """Both executions must give one gradient on this batch; in evaluation mode, without masks."""
        module = _module_of(step)
        modes = [(part, part.training) for part in module.modules()]
        if any(training and isinstance(part, _BatchNorm) for part, training in modes):
            raise UnsupportedError("batch norm in training mode normalises each micro-batch by its own statistics")
        random_state = RandomState(step.parameters[0].device)
        module.eval()
        try:
            with buffers_kept(module):
                ours = self._all_at_once(step).gradient
                theirs = self.otherwise.outcome(step).gradient
        finally:
            for part, training in modes:
                part.training = training
            random_state.restore()
        if [slope is None for slope in ours] != [slope is None for slope in theirs]:
            raise UnsupportedError("a weight is used by some micro-batches only")
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        far = torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt()
        long = torch.stack([b.square().sum() for _, b in pairs]).sum().sqrt()
        if not far <= 10 * torch.finfo(far.dtype).eps ** 0.5 * long:
            raise UnsupportedError(
                f"on the first batch its gradient was off by {float(far / long):.1e}; the loss is perhaps no plain "
                "mean over examples, or a weight is used outside its layer"
            )

    def _all_at_once(self, step: Step) -> Outcome:
        module = _module_of(step)
        perturbation = _perturbation_of(step)
        rules = _rules(
            module, [p for p, is_perturbed in zip(step.parameters, step.perturbed, strict=True) if is_perturbed]
        )
        shards = Shards.of([step.sizes[i] for i in step.own])
        for rule in rules:
            rule.shards = shards
        random_state = RandomState(step.parameters[0].device)
        with _in_place_of_forward({rule.layer: rule.first for rule in rules}):
            loss, scaled, denominator = step.loss(step.own_batch)
        if denominator is not None:
            raise UnsupportedError("the closure reports a denominator, which need not be the same for every example")
        if step.seed is not None and not random_state.is_current:
            raise UnsupportedError("the model draws random numbers, and with a seed each micro-batch has its own")
        outputs = [rule.output for rule in rules]
        if None in outputs:
            raise UnsupportedError(f"{rules[outputs.index(None)].name} is not called")
        slopes = torch.autograd.grad(scaled, outputs, materialize_grads=True)  # type: ignore[arg-type]
        if step.scale is not None:
            slopes = torch._foreach_div(slopes, step.scale)
        with torch.no_grad():
            squares = torch.stack([rule.learn(slope) for rule, slope in zip(rules, slopes, strict=True)]).sum(0)
            factors = perturbation.factor(squares.sqrt())
        for rule in rules:
            rule.factors = factors
        random_state.restore()
        with buffers_kept(module), _in_place_of_forward({rule.layer: rule.second for rule in rules}):
            _, perturbed, _ = step.loss(step.own_batch)
            gradient: Gradient = list(torch.autograd.grad(perturbed, step.parameters, allow_unused=True))
        finite = torch.ones((), dtype=torch.bool)
        if step.scale is not None:
            finite = torch.isfinite(squares).all() & all_finite(gradient)
        return Outcome(loss, gradient, float(step.num_own_examples), False, finite)


def _module_of(step: Step) -> nn.Module:
    if step.module is None:
        raise UnsupportedError("mSAM was not given the module")
    return step.module


def _perturbation_of(step: Step) -> GradientAscent:
    if isinstance(step.descent, AtPerturbation):
        perturbation = step.descent.perturbation
        if type(perturbation) is GradientAscent and perturbation.is_multiple:
            return perturbation
    raise UnsupportedError(f"{step.descent!r} is not a multiple of the gradient")


def _rules(module: nn.Module, parameters: list[Tensor]) -> list[Rule]:
    """A rule for every layer that has perturbed weights."""
    wanted = {id(parameter) for parameter in parameters}
    rules: list[Rule] = []
    owned: list[int] = []
    for name, layer in module.named_modules():
        own = {key: id(p) for key, p in layer.named_parameters(recurse=False) if id(p) in wanted}
        if own:
            owned += own.values()
            rules.append(rule_for(name or "the model", layer, frozenset(own)))
    if len(owned) > len(set(owned)):
        raise UnsupportedError("a weight is shared by two layers")
    if set(owned) != wanted:
        raise UnsupportedError("the optimizer holds weights that are not in the module")
    return rules


@contextlib.contextmanager
def _in_place_of_forward(replacements: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let layers compute something else for a while; their hooks are still called."""
    try:
        for layer, forward in replacements.items():
            layer.forward = forward
        yield
    finally:
        for layer in replacements:
            layer.__dict__.pop("forward", None)
