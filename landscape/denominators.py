"""What a mean loss was divided by, so that the means of unequal batches can be put together exactly.

The loss over a data set is Σ_b d_b · loss_b / Σ_b d_b, where loss_b is the mean over batch b and d_b the number that
mean was divided by: examples, tokens that are not ignored, or the sum of the class weights of the targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.batches import num_examples, tensors
from landscape.identity import name_of as name_of
from landscape.logits import LogitNormalized

Denominator = Callable[[Any, Any], Tensor | int]


def examples(outputs: Any, targets: Any) -> int:
    """The number of examples: the denominator of any loss that is a plain mean over equally shaped examples."""
    return num_examples(targets if tensors(targets) else outputs)


class CrossEntropyDenominator:
    """Σ over the targets that are not ``ignore_index`` of their class weight (1 without weights).

    Raises:
        ValueError: if a class weight is negative or no number.
    """

    def __init__(self, *, ignore_index: int = -100, weight: Tensor | None = None) -> None:
        wrong = [] if weight is None else (~(weight >= 0)).nonzero().flatten().tolist()
        if weight is not None and wrong:
            raise ValueError(
                f"the loss has the class weight {float(weight[wrong[0]]):g} for class {wrong[0]}; "
                "a mean is by weights of 0 or more"
            )
        self.ignore_index = ignore_index
        self.weight = weight

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor | int:
        if targets.is_floating_point():  # class probabilities: torch divides by the number of rows
            return targets.numel() // int(outputs.shape[1])
        kept = targets != self.ignore_index
        if self.weight is None:
            return kept.sum()
        if outputs.ndim > 1 and outputs.shape[1] != len(self.weight):
            raise ValueError(
                f"the loss has weights for {len(self.weight)} classes, and outputs {tuple(outputs.shape)} are for "
                f"{outputs.shape[1]}; give it one for each class"
            )
        return torch.where(kept, self.weight.to(targets.device)[torch.where(kept, targets, 0)], 0).sum()

    def __repr__(self) -> str:
        weights = "no class weights" if self.weight is None else f"class weights {name_of(self.weight)}"
        return f"targets other than {self.ignore_index}, {weights}"


def denominator_of(loss: Callable[..., Any]) -> Denominator:
    """The denominator that a loss divides by, read off its settings; examples when it does not say.

    Raises:
        ValueError: if the loss is set to a sum, or to no reduction at all, or has class weights that are negative.

    >>> denominator_of(nn.CrossEntropyLoss(ignore_index=0))(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item()
    2
    """
    if isinstance(loss, LogitNormalized):
        return denominator_of(loss.loss)
    settings = loss.keywords if isinstance(loss, functools.partial) else getattr(loss, "__dict__", {})
    if settings.get("reduction", "mean") != "mean":
        raise ValueError(
            f"the loss must be a mean over its batch; got reduction={settings['reduction']!r}. Set reduction='mean'."
        )
    function = loss.func if isinstance(loss, functools.partial) else loss
    if function in (functional.cross_entropy, functional.nll_loss):
        known = {key: settings[key] for key in ("ignore_index", "weight") if key in settings}
        return CrossEntropyDenominator(**known)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return CrossEntropyDenominator(ignore_index=loss.ignore_index, weight=loss.weight)
    return examples
