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
        TypeError: in place of torch's, where outputs are no tensor.
    """
    try:
        return loss(outputs, targets)
    except (TypeError, AttributeError) as error:
        kind = type(outputs).__name__
        signs = f"must be Tensor, not {kind}", f"'{kind}' object has no attribute 'size'"
        if isinstance(outputs, Tensor) or not str(error).endswith(signs):
            raise
        raise TypeError(
            f"the loss takes a tensor, and the model returns a {kind}; pass forward=lambda model, batch: "
            "(outputs, targets) with the part of them that the loss is of"
        ) from None
    except (RuntimeError, ValueError, IndexError) as error:
        if not isinstance(outputs, Tensor):
            raise
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
                "forward=lambda model, batch: (outputs.transpose(1, 2), targets); those of a causal language model are "
                "of the next token, outputs[:, :-1] for targets[:, 1:]."
            ) from None
        raise
