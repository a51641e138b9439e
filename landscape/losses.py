"""The loss of a batch, and what torch's errors mean where targets do not fit outputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

Loss = Callable[[Any, Any], Tensor]
_UNKNOWN_CLASS = re.compile(r"Target (-?\d+) is out of bounds\.")


def loss_of(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """The loss of a batch; what torch's cross-entropy says of shapes and classes that do not fit is said in a sentence.

    Raises:
        ValueError: in place of torch's error, with both shapes, or with the target and the classes.
    """
    try:
        return loss(outputs, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        said = str(error)
        unknown = _UNKNOWN_CLASS.fullmatch(said)
        if unknown is not None:
            raise ValueError(
                f"the target {unknown[1]} is none of the classes 0 to {outputs.shape[1] - 1} that outputs "
                f"{tuple(outputs.shape)} are for; mend the targets, or give the model an output for each class"
            ) from None
        if said.startswith(("Expected target size", "Expected input batch_size")) and outputs.ndim >= 2:
            raise ValueError(
                f"the loss cannot take outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}: the outputs "
                "of a cross-entropy are (n, classes, ...) for targets (n, ...). For outputs (n, length, classes) pass "
                "forward=lambda model, batch: (outputs.transpose(1, 2), targets)."
            ) from None
        raise
