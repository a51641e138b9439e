"""A copy of an objective's model, whose layers can be watched and moved."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from landscape.batches import Batch
from landscape.forward import Seam, call_with
from landscape.layers.plan import Plan
from landscape.layers.sites import UnsupportedError
from landscape.memory import is_out_of_memory
from landscape.objective import Objective


class Watched:
    """The model with the way its outputs and targets are read, and the plan of its layers.

    Args:
        objective: whose model is copied, with its own weights.
        frozen: whether nothing is differentiated in the weights.

    Attributes:
        plan: of the layers that hold the objective's weights.

    Raises:
        UnsupportedError: if a layer cannot be taken this way.
    """

    def __init__(self, objective: Objective, *, frozen: bool = False) -> None:
        self._seam: Seam = copy.deepcopy(objective.work.definition.seam)  # its layers are given other forwards
        named = dict(self._seam.model.named_parameters())
        self.weights = {name: named[name].requires_grad_(not frozen) for name in objective.space.names}
        self.plan = Plan(self._seam.model, list(self.weights.values()))

    def forward(self, batch: Batch, *, second: bool) -> tuple[Any, Any]:
        """Outputs and targets in either pass; buffers are those of the model each time."""
        buffers = {name: buffer.clone() for name, buffer in self._seam.named_buffers()}
        try:
            with self.plan.in_place(second=second), _layers_called():
                pair: tuple[Any, Any] = call_with(self._seam, buffers, batch)
        except UnsupportedError:
            raise
        except Exception as error:  # whatever a model raises that goes together with its own layers alone
            if is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnsupportedError(f"it fails where layers are taken example by example ({said})") from None
        return pair


@contextlib.contextmanager
def _layers_called() -> Iterator[None]:
    """Within it, torch's layers of transformers call their parts, as they do where gradients are taken."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
