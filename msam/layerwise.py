"""All micro-batches of a step at once, layer by layer, through the user's own modules."""

from __future__ import annotations

from itertools import compress

import torch
from torch import nn

from landscape.layers import Passes, Plan
from landscape.shards import Shards
from landscape.stacks import Ascent
from msam.averages import all_finite
from msam.execution import Execution
from msam.guarded import SPLITS, Guarded, ascent_of, module_of, require_no_draws, split_of
from msam.replay import RandomState, buffers_kept
from msam.step import FINITE, Gradient, Outcome, Step


class Layerwise(Guarded):
    """Two passes over the whole batch, in which every layer perturbs its weights for each micro-batch on its own.

    The first pass takes the gradients of the layers' outputs, the second one product per layer for all micro-batches:
    five thirds of a step of the base optimizer for any number of micro-batches where no copy of the weights is needed,
    and about the two of SAM elsewhere.

    It serves ``GradientAscent`` and ``AdaptiveAscent`` on models whose weights lie in linear, convolutional, embedding
    and normalisation layers, in self-attention, or are parameters of a module that have one row for all examples; and
    losses that are means over examples, or over what the closure reports. Weights may be shared, and layers called more
    than once. BERT and GPT-2 of transformers are among them: embeddings of places that are looked up once for all
    examples, and linear layers whose weight is turned. Batch norm must be in evaluation mode.

    Args:
        otherwise: the execution to fall back on and to be held against, ``OneByOne()`` when left out.
        check_every: steps between two comparisons.
    """

    manner = "layer by layer"

    def __init__(self, *, otherwise: Execution | None = None, check_every: int = 1000) -> None:
        super().__init__(otherwise=otherwise, check_every=check_every)
        self._forget()

    def _forget(self) -> None:
        self._plan: Plan | None = None
        self._planned: tuple[object, ...] = ()
        self._shards: dict[tuple[tuple[int, ...], bool], Shards] = {}

    @property
    def _precision(self) -> torch.dtype | None:
        return None if self._plan is None else self._plan.precision

    def _all_at_once(self, step: Step, before: RandomState) -> Outcome:
        module, ascent = module_of(step), ascent_of(step)
        plan = self._plan_of(step, module)
        try:
            return self._passes(step, module, plan, ascent, before)
        finally:
            plan.clear()

    def _passes(self, step: Step, module: nn.Module, plan: Plan, ascent: Ascent, before: RandomState) -> Outcome:
        shards = self._shards_of(step, plan)
        batch = shards.arranged(step.own_batch)
        passes = Passes(shards, ascent, plan.anchor, hooks=all(step.perturbed))
        plan.begin(passes)
        with plan.in_place(second=False):
            loss, scaled, denominator = step.loss(batch)
        require_no_draws(step, before)
        if denominator == 0:
            return self.otherwise.outcome(step)  # which has nothing to average either, and says so
        plan.learnt(scaled, passes)
        del scaled
        with torch.no_grad():
            plan.perturb(passes)
        before.restore()
        with buffers_kept(module):  # until the gradient is taken, which may need the buffers as the pass left them
            with plan.in_place(second=True):
                _, perturbed, _ = step.loss(batch)
            plan.require_repeats()
            gradient: Gradient = list(torch.autograd.grad(perturbed, step.parameters, allow_unused=True))
        finite = FINITE if step.scale is None else all_finite(gradient)  # which no overflow of the first pass leaves
        share = float(passes.num_examples) if denominator is None else denominator
        return Outcome(loss, gradient, share, denominator is not None, finite)

    def _shards_of(self, step: Step, plan: Plan) -> Shards:
        key = (split_of(step), plan.wants_interleaved)
        if key not in self._shards:
            if len(self._shards) > SPLITS:
                self._shards.clear()
            self._shards[key] = Shards.of(key[0], interleaved=key[1])
        return self._shards[key]

    def _plan_of(self, step: Step, module: nn.Module) -> Plan:
        """The last plan, as long as module and perturbed weights are the same."""
        perturbed = list(compress(step.parameters, step.perturbed))
        key = (id(module), perturbed[0].device, perturbed[0].dtype, *map(id, perturbed))
        if self._plan is None or key != self._planned or not self._plan.is_current:
            self._plan, self._planned = Plan(module, perturbed), key
        return self._plan
