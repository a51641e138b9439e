"""Where weights enter a pass: one operation, watched in the first pass, and perturbed in the second."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from landscape.shards import Shards
from landscape.stacks import Ascent, Stacks


class UnsupportedError(Exception):
    """A model that cannot be taken with all micro-batches at once; the sentence says why."""


@dataclass
class Passes:
    """What the sites of one step share.

    Attributes:
        shards: the micro-batches.
        ascent: the perturbation.
        stacks: gradients and then copies of the weights, for each run.
        ends: where the backward pass of the first pass ends, besides: the output, the site, and its input.
        factors: c_i, ``(number, 1, 1)``, for each run, after the first pass.
        anchor: what the first pass is differentiated in, so that it reaches all sites and no weight.
        hooks: whether all weights are perturbed, so that behind an input that has a graph there is another site.
        move: (site, inputs, output) -> another output in the first pass, in place of watching.
        record: where the inputs and output gradients of the first pass go, if sites are to learn them later.
    """

    shards: Shards
    ascent: Ascent
    anchor: Tensor
    hooks: bool = False
    ends: list[tuple[GradientEdge, Site, Tensor]] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)
    record: list[tuple[Site, Tensor, Tensor]] | None = None
    move: Callable[[Site, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        self.num_examples = self.shards.num_examples
        self.largest = max([size for _, size in self.shards.runs])  # micro-batch, in examples
        self.stacks = [Stacks(self.ascent) for _ in self.shards.runs]


class Site(ABC):
    """One operation that has weights.

    Args:
        name: what the model calls it.
        weights: all its weights, by name; an entry may be None.
        perturbed: the names of those that are perturbed.

    Attributes:
        shared: whether another site has one of the weights too.
    """

    def __init__(self, name: str, weights: Mapping[str, Tensor | None], perturbed: frozenset[str]) -> None:
        self.name = name
        self.weights = dict(weights)
        self.perturbed = perturbed
        self.shared = False

    def begin(self, passes: Passes) -> None:
        """Start a step."""
        self.passes = passes
        self.calls = 0
        self.answers = 0
        self.repeats = 0
        self.hooked = False
        self.clear()

    def clear(self) -> None:  # noqa: B027  most keep nothing
        """Let go of what the first pass left for the second."""

    def watched(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The output of the first pass, so that the site learns its gradient when it comes."""
        for rows in (inputs, output):
            if rows.ndim < 1 or rows.shape[0] != self.passes.num_examples:
                kind = "input" if rows is inputs else "output"
                raise UnsupportedError(f"the {kind} of {self.name}, {tuple(rows.shape)}, has no row for each example")
        self.calls += 1
        self.dtype = output.dtype
        if self.passes.move is not None:
            return self.passes.move(self, inputs, output)
        kept = [inputs.detach()]  # until it is told: what tells it lives as long as the graph
        if self.passes.hooks and not output._is_view():
            self.hooked = True  # much cheaper, but only called where the backward pass goes further than this
            if inputs.requires_grad and not self.keeps(kept[0]):
                output.register_hook(lambda slope: self.told(kept.pop(), slope))  # type: ignore[no-untyped-call]
            else:
                self.passes.ends.append((get_gradient_edge(output), self, kept.pop()))
            return output
        return _Watched.apply(output, self.passes.anchor, lambda slope: self.told(kept.pop(), slope))  # type: ignore[no-untyped-call,no-any-return]

    def watches(self, inputs: Tensor) -> Tensor:
        """Inputs for :meth:`watched`, without their graph where nothing is made of them yet."""
        return inputs.detach() if self.passes.move is None else inputs

    def keeps(self, inputs: Tensor) -> bool:
        """Whether the gradient at an output will be kept, so that it may as well be given at the end of the pass."""
        del inputs
        return False

    def told(self, inputs: Tensor, slope: Tensor) -> None:
        """Take in the gradient at an output."""
        self.answers += 1
        if self.passes.record is None:
            self.learn(inputs, slope)
        else:
            self.passes.record.append((self, inputs, slope))

    @property
    def alone(self) -> bool:
        """Whether the weights act here only, and once, so that their gradients need not be summed."""
        return self.calls == 1 and not self.shared and self.passes.ascent.is_plain

    @abstractmethod
    def learn(self, inputs: Tensor, slope: Tensor) -> None:
        """Take in the gradient of the first pass's loss at an output: add to the stacks, or keep what stands for it."""

    def squares(self, run: int) -> Tensor | None:
        """‖g_i‖² of what is kept outside the stacks, as sums over rows, ``(number, any)``, for each micro-batch."""
        del run
        return None

    @property
    def num_bytes(self) -> int:
        """What the perturbed weights take."""
        return sum(w.nbytes for key, w in self.weights.items() if w is not None and key in self.perturbed)

    def bytes_of_squared(self, inputs: Tensor) -> int:
        """What :meth:`squared` takes for each example for a moment."""
        del inputs
        return self.num_bytes

    def squared(self, inputs: Tensor, slope: Tensor, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight with Σ_i s_i g_i², entry by entry, of micro-batches of one example, where the site is alone.

        Args:
            inputs: of a first pass.
            slope: the gradient at the output.
            signs: s, ``(examples,)``.
        """
        self.learn(inputs, slope)
        return self.passes.stacks[0].squared(signs)

    def squares_of_rows(self) -> Tensor | int:
        """Σ_t ‖g_t‖² over the rows of each micro-batch where ‖Σ_t g_t‖² is taken from products of rows; else zero."""
        return 0

    def again(self, inputs: Tensor) -> Tensor:
        """The operation in the second pass."""
        self.repeats += 1
        return self.second(inputs)

    @abstractmethod
    def second(self, inputs: Tensor) -> Tensor:
        """The operation at w + ε_i for micro-batch i, differentiable in w."""


class _Watched(torch.autograd.Function):
    """The identity; tells somebody the gradient when it passes."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, tell: Callable[[Tensor], None]) -> Tensor:  # noqa: ARG004
        ctx.tell = tell
        return output.data  # no view, so that the next operation may write into it

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        ctx.tell(slopes[0])
        return slopes[0], None, None
