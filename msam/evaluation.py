"""Loss and accuracy of a model on examples it was or was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from landscape.terms import Loss
from msam.data import Examples

BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy over ``num_examples`` examples, in evaluation mode."""

    loss: float
    accuracy: float
    num_examples: int

    @property
    def accuracy_stderr(self) -> float:
        """Binomial standard error of the accuracy, as an estimate for new examples like these."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_examples)


def evaluate(model: nn.Module, loss: Loss, examples: Examples) -> Evaluation:
    """Evaluate a classifier; the model's mode is put back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, right = 0.0, 0
    try:
        with torch.no_grad():
            for inputs, targets in examples.batches(BATCH):
                outputs = model(inputs)
                total += loss(outputs, targets).item() * len(targets)
                right += int((outputs.argmax(dim=1) == targets).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return Evaluation(total / len(examples), right / len(examples), len(examples))
