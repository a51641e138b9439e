"""The one seam between a model and its data: how a batch becomes outputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from landscape.batches import Batch, moved
from landscape.widened import Widened

Forward = Callable[[nn.Module, Batch], tuple[Any, Any]]
Place = tuple[dict[str, Any], str]  # tensors of a layer by their names there, and one of these names


def supervised(model: nn.Module, batch: Batch) -> tuple[Any, Any]:
    """The usual reading of a batch: ``(inputs, targets)``, or a mapping with ``labels`` among the model's arguments.

    Returns:
        The model's outputs (their ``logits`` when they have that attribute) and the targets.

    Raises:
        TypeError: if the batch is neither; then write a ``forward`` of your own.
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        inputs: Any = {key: value for key, value in batch.items() if key != "labels"}
        targets = batch["labels"]
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = batch
    else:
        raise TypeError(
            f"a batch must be (inputs, targets) or a mapping with 'labels'; got {type(batch).__name__}. "
            "For another layout pass forward=lambda model, batch: (outputs, targets)."
        )
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    else:
        outputs = model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    return getattr(outputs, "logits", outputs), targets


def read(forward: Forward, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
    """What a forward makes of a batch.

    Raises:
        TypeError: if it is no pair.
    """
    found = forward(model, batch)
    if not (isinstance(found, tuple | list) and len(found) == 2):
        raise TypeError(f"forward must return a pair, (outputs, targets); got a {type(found).__name__}")
    outputs, targets = found
    return outputs, targets


class Seam(nn.Module):
    """A model together with the way it reads a batch, so that ``functional_call`` can put other weights into it.

    A batch that lies elsewhere is brought to the device of the model, for this one time.

    Attributes:
        is_wide: whether what the model, or its loss, casts to single precision stays in double.
    """

    def __init__(self, model: nn.Module, read: Forward) -> None:
        super().__init__()
        self.model = model
        self.read = read
        self.is_wide = False
        self.device = next((parameter.device for parameter in model.parameters()), None)

    def forward(self, batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch."""
        with self.casts():
            return read(self.read, self.model, self.placed(batch))

    def casts(self) -> AbstractContextManager[None]:
        """Within it model and loss are computed."""
        return Widened() if self.is_wide else nullcontext()

    def placed(self, batch: Batch) -> Batch:
        """A batch where the model is."""
        return batch if self.device is None else moved(batch, self.device)


class Names:
    """What the tensors of a module are called; looked up once, for modules whose tensors stay the same ones.

    Attributes:
        buffers: by name, tied ones once.
        places: where each tensor lies, by its name; of a layer that is held under several names, each of these.
        tied: the places of a tensor's other names, by its first.
    """

    def __init__(self, module: nn.Module) -> None:
        self.buffers = dict(module.named_buffers())
        self.places: dict[str, Place] = {}
        self.tied: dict[str, list[Place]] = {}
        firsts = {id(tensor): name for name, tensor in (*module.named_parameters(), *self.buffers.items())}
        for owner, part in module.named_modules():  # every layer once
            for slots in (part._parameters, part._buffers):
                for key, tensor in slots.items():
                    name, first = f"{owner}.{key}".removeprefix("."), firsts.get(id(tensor), "")
                    self.places[name] = (slots, key)
                    if first and name != first:
                        self.tied.setdefault(first, []).append((slots, key))

    @classmethod
    def of(cls, module: nn.Module) -> Names:
        """Those of a module that nobody else changes."""
        if module not in _KNOWN:
            _KNOWN[module] = cls(module)
        return _KNOWN[module]


_KNOWN: WeakKeyDictionary[nn.Module, Names] = WeakKeyDictionary()


def call_with(module: nn.Module, named: Mapping[str, Tensor], *arguments: Any) -> Any:
    """What a module returns with other tensors in the place of those named; tied ones go with the one that is named.

    As ``torch.func.functional_call``, which looks for the places at every call, and which would leave the replacement
    behind in a layer that is held under two names.
    """
    names = Names.of(module)
    held: list[tuple[Place, Any]] = []
    try:
        for name, tensor in named.items():
            for place in (names.places[name], *names.tied.get(name, ())):
                slots, key = place
                held.append((place, slots[key]))
                slots[key] = tensor
        return module(*arguments)
    finally:
        for (slots, key), tensor in reversed(held):
            slots[key] = tensor
