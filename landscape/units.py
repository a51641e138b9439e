"""Which units of a model can be put in another order: those that known layers alone make, add up and read."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.permutations import Place, Units

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ONE_BY_ONE = (  # what treats all units alike, each on its own
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Flatten),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Tanh, nn.Hardtanh, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Tanhshrink),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_FUNCTIONS = {
    *(torch.relu, torch.tanh, torch.sigmoid, torch.flatten, functional.relu, functional.leaky_relu, functional.elu),
    *(functional.gelu, functional.silu, functional.tanh, functional.sigmoid, functional.dropout, functional.softplus),
    *(functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d),
}
_METHODS = {"relu", "tanh", "sigmoid", "flatten"}
_SUMS = {
    *(operator.add, operator.iadd, torch.add, "add", "add_"),
    *(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"),
}
_MEANS = {torch.mean, "mean"}
_PLACES = {2, 3, 4, -1, -2}  # axes of images that are no channels
_ASKS, _SHAPES = {"size", "dim"}, {"shape", "ndim", "dtype", "device"}  # not of the numbers
_VIEWS = {"view", "reshape"}


class _Stream:
    """Units in the making: those of layers whose outputs are added are one."""

    def __init__(self, units: Units, number: int, *, are_channels: bool) -> None:
        self.units = units
        self.number = number  # the order they are made in
        self.are_channels = are_channels  # of images
        self.reason: str | None = None  # why they must stay in their order
        self.is_read = False
        self._into: _Stream | None = None

    @property
    def root(self) -> _Stream:
        """What it has become part of."""
        return self if self._into is None else self._into.root

    def fix(self, reason: str) -> None:
        """Leave them in their order."""
        root = self.root
        root.reason = root.reason or reason

    def merged(self, other: _Stream, step: str) -> _Stream | None:
        """Both with one order; None, with both fixed, where they cannot have one."""
        first, second = sorted((self.root, other.root), key=lambda stream: stream.number)
        if first is second:
            return first
        groups = {first.units.group, second.units.group} - {1}
        if first.units.number != second.units.number or len(groups) > 1:
            for stream in (first, second):
                stream.fix(f"{step} takes {first.units.layer} with {second.units.layer}, which has other units")
            return None
        first.units.places += second.units.places
        first.units.group = max(1, *groups) if groups else 1
        first.reason = first.reason or second.reason
        first.is_read = first.is_read or second.is_read
        second._into = first
        return first


def hidden_units(model: nn.Module) -> list[Units]:
    """The hidden units of a model that can be put in another order, in the order of its layers.

    Linear and convolutional layers make units and read those of others; normalisation, activations, pooling and
    flattening treat them alike; outputs that are added or subtracted share their order. Units that anything
    else reads, as attention, and those that come out of the model, stay as they are.

    Raises:
        ValueError: if there are none, with the step that is in the way, or if the model cannot be followed.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # whatever the model raises when it is run on symbols, which says more of these than of itself
        raise _refusal(
            f"the forward of {type(model).__name__} cannot be followed from layer to layer, as it branches on its "
            "input, loops over it, or takes it in named parts"
        ) from None
    walk = _Walk(model)
    for node in graph.nodes:
        walk.take(node)
    roots = [stream for stream in walk.streams if stream.root is stream]
    free = [stream.units for stream in roots if stream.reason is None and stream.is_read]
    if not free:
        reasons = [stream.reason for stream in roots if stream.reason not in (None, _END)]
        raise _refusal(str(reasons[0]) if reasons else "it has no hidden units")
    return free


_END = "they come out of the model"


class _Walk:
    """From step to step, with the units that each result is made of."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.streams: list[_Stream] = []
        self._of: dict[fx.Node, _Stream | None] = {}
        self._called: dict[str, list[_Stream]] = {}  # layers with weights, and what they read and make

    def take(self, node: fx.Node) -> None:
        """The next step."""
        read = [stream for stream in map(self._of.get, node.all_input_nodes) if stream is not None]
        if node.op == "call_module":
            self._of[node] = self._module(str(node.target), read)
        elif node.op in ("call_function", "call_method"):
            self._of[node] = self._function(node, read)
        else:
            self._of[node] = None
            self._fix(read, _END)

    def _fix(self, streams: Sequence[_Stream], reason: str) -> None:
        for stream in streams:
            stream.fix(reason)

    def _module(self, name: str, read: Sequence[_Stream]) -> _Stream | None:
        module = self.modules[name]
        if name in self._called:
            self._fix([*read, *self._called[name]], f"{name} is called twice")
            return None
        if len(read) > 1:
            self._fix(read, f"{name} reads several results")
            return None
        before = read[0].root if read else None
        made = self._layer(name, module, before)
        if next(module.parameters(), None) is not None:
            self._called[name] = [*read, *([made] if made is not None else [])]
        return made

    def _layer(self, name: str, module: nn.Module, before: _Stream | None) -> _Stream | None:
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            if getattr(module, "groups", 1) != 1:
                self._fix([before] if before else [], f"{name} is a convolution in groups")
                return None
            if before is not None:
                block = self._block(name, module.weight.shape[1], before)
                before.units.places.append(Place(f"{name}.weight", 1, block or 1))
                before.is_read = True
            made = Units(name, module.weight.shape[0], _places(name, module, 1, ("weight", "bias")))
            self.streams.append(_Stream(made, len(self.streams), are_channels=isinstance(module, _CONVOLUTIONS)))
            return self.streams[-1]
        if before is None:
            return None
        return before if self._goes_along(name, module, before) else None

    def _goes_along(self, name: str, module: nn.Module, stream: _Stream) -> bool:
        """Whether a layer treats units alike; its numbers go with them. They are fixed where it does not."""
        units, kinds = stream.units, ["weight", "bias"]
        if isinstance(module, _BatchNorm):
            size, kinds = module.num_features, [*kinds, "running_mean", "running_var"]
        elif isinstance(module, nn.GroupNorm):
            size = module.num_channels
            group = units.number // module.num_groups
            if units.group not in (1, group) and group not in (1, units.number):
                stream.fix(f"{name} normalises other groups of the same units")
                return False
            if group != units.number:
                units.group = max(units.group, group)
        elif isinstance(module, nn.LayerNorm):
            size = module.normalized_shape[0]
        elif isinstance(module, nn.PReLU):
            size = module.num_parameters  # it has no bias
            if size == 1:
                return True
        else:
            if not isinstance(module, _ONE_BY_ONE):
                stream.fix(f"{name} ({type(module).__name__}) is no known layer")
            return isinstance(module, _ONE_BY_ONE)
        block = self._block(name, size, stream)
        units.places += _places(name, module, block or 1, kinds)
        return block is not None

    def _block(self, name: str, size: int, stream: _Stream) -> int | None:
        """Consecutive entries of a layer for each unit, several where pixels have been flattened."""
        units = stream.units
        if size % units.number:
            stream.fix(f"{name} takes {size} numbers for the {units.number} units of {units.layer}")
            return None
        return size // units.number

    def _function(self, node: fx.Node, read: Sequence[_Stream]) -> _Stream | None:
        target: Any = node.target
        if not read or target in _ASKS or (target is getattr and node.args[1] in _SHAPES):
            return None
        if target in _SUMS and len(node.args) == 2 and not node.kwargs:
            first, second = (self._of.get(part) if isinstance(part, fx.Node) else None for part in node.args)
            if first is not None and second is not None:
                return first.merged(second, node.name)
        along = target in _FUNCTIONS or target in _METHODS
        if target in _MEANS:
            along = read[0].are_channels and _axes(node) <= _PLACES
        if target in _VIEWS and len(node.args) == 3 and node.args[2] == -1:  # flattened
            along = read[0].are_channels
        if along and len(read) == 1:
            return read[0].root
        self._fix(read, f"{node.name} is no known step")
        return None


def _axes(node: fx.Node) -> set[Any]:
    """The axes of a mean; one that is never a place where they are not said."""
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return set(given) if isinstance(given, list | tuple) else {given}


def _places(name: str, module: nn.Module, block: int, kinds: Sequence[str]) -> list[Place]:
    return [Place(f"{name}.{kind}", 0, block) for kind in kinds if getattr(module, kind, None) is not None]


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"the hidden units of this model cannot be put in another order: {reason}. Alignment takes linear and "
        "convolutional layers with normalisation, activations, pooling, flattening and shortcuts between them."
    )
