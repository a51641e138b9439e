"""The order of hidden units, which a network computes the same function in: where each unit has its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

Order = npt.NDArray[np.int64]
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


@dataclass(frozen=True)
class Place:
    """Where the units of a layer have numbers: ``block`` consecutive ones for each along an axis of a tensor."""

    name: str
    axis: int
    block: int = 1


@dataclass
class Units:
    """The outputs of a layer that the next one reads, in an order that can be changed.

    Attributes:
        layer: the one they are outputs of.
        number: how many.
        places: the numbers that go with them.
        group: units that are normalised together and stay together; one where each is free.
    """

    layer: str
    number: int
    places: list[Place] = field(default_factory=list)
    group: int = 1

    def drawn(self, generator: torch.Generator) -> Order:
        """A random order that keeps groups together."""
        groups = torch.randperm(self.number // self.group, generator=generator, device="cpu")
        inside = torch.stack([torch.randperm(self.group, generator=generator, device="cpu") for _ in groups])
        order: Order = (groups[:, None] * self.group + inside).flatten().numpy()
        return order

    def best(self, gains: npt.NDArray[np.float64]) -> Order:
        """The order with the largest sum of ``gains[i, order[i]]``, among those that keep groups together.

        The best order within each pair of groups first, and then of the groups: both by linear assignment, exact.
        """
        size, count = self.group, self.number // self.group
        if size == 1:
            return linear_sum_assignment(gains, maximize=True)[1].astype(np.int64)
        cells = gains.reshape(count, size, count, size).swapaxes(1, 2)
        inside = np.array([[linear_sum_assignment(cell, maximize=True)[1] for cell in row] for row in cells])
        values = np.take_along_axis(cells, inside[..., None], axis=3).sum(axis=(2, 3))
        groups = linear_sum_assignment(values, maximize=True)[1]
        order: Order = (groups[:, None] * size + inside[np.arange(count), groups]).ravel()
        return order


def hidden_units(model: nn.Module) -> list[Units]:
    """The hidden units of a model that is a chain of known layers, in the order of the chain.

    Raises:
        ValueError: naming the step that is not known, or that makes it no chain.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # whatever the model raises when it is run on symbols, which says more of these than of itself
        raise _refusal(
            f"the forward of {type(model).__name__} cannot be followed from layer to layer, as it branches on its "
            "input, loops over it, or takes it in named parts"
        ) from None
    steps = [node for node in graph.nodes if node.op != "output"]
    if not steps or [node.op for node in steps].count("placeholder") != 1:
        raise _refusal("it takes several inputs")
    modules, seen = dict(model.named_modules()), set()
    found: list[Units] = []
    units: Units | None = None
    for before, node in zip(steps, [*steps[1:], None], strict=True):
        if len(before.users) != 1 or (node is not None and node.all_input_nodes != [before]):
            raise _refusal(f"{(node or before).name} does not follow {before.name} alone, as in a residual connection")
        if node is None:
            break
        if node.op != "call_module":
            if node.target not in (_FUNCTIONS if node.op == "call_function" else _METHODS):
                raise _refusal(f"{node.name} is no known step")
            continue
        name, module = str(node.target), modules[str(node.target)]
        if name in seen:
            raise _refusal(f"{name} is called twice")
        seen.add(name)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if getattr(module, "groups", 1) != 1:
                raise _refusal(f"{name} is a convolution in groups")
            if units is not None:
                read = module.weight.shape[1]
                units.places.append(Place(f"{name}.weight", 1, _block(name, read, units)))
                found.append(units)
            units = Units(name, module.weight.shape[0], _places(name, module, 1, ("weight", "bias")))
        elif units is not None:
            _take_in(units, name, module)
        elif not isinstance(module, (*_ONE_BY_ONE, _BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)):
            raise _refusal(f"{name} ({type(module).__name__}) is no known layer")
    if not found:
        raise _refusal("it has no hidden units")
    return found


def _take_in(units: Units, name: str, module: nn.Module) -> None:
    """The numbers of a layer that treats the units alike."""
    if isinstance(module, _BatchNorm):
        kinds = ("weight", "bias", "running_mean", "running_var")
        units.places += _places(name, module, _block(name, module.num_features, units), kinds)
    elif isinstance(module, nn.GroupNorm):
        group = _block(name, module.num_channels, units) and units.number // module.num_groups
        if units.group not in (1, group) and group not in (1, units.number):
            raise _refusal(f"{name} normalises other groups of the same units")
        if group != units.number:
            units.group = max(units.group, group)
        units.places += _places(name, module, 1, ("weight", "bias"))
    elif isinstance(module, nn.LayerNorm):
        units.places += _places(name, module, _block(name, module.normalized_shape[0], units), ("weight", "bias"))
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            units.places += _places(name, module, _block(name, module.num_parameters, units), ("weight",))
    elif not isinstance(module, _ONE_BY_ONE):
        raise _refusal(f"{name} ({type(module).__name__}) is no known layer")


def _places(name: str, module: nn.Module, block: int, kinds: Sequence[str]) -> list[Place]:
    return [Place(f"{name}.{kind}", 0, block) for kind in kinds if getattr(module, kind, None) is not None]


def _block(name: str, size: int, units: Units) -> int:
    """Consecutive entries of a layer for each unit: several where pixels have been flattened."""
    if size % units.number:
        raise _refusal(f"{name} takes {size} numbers for the {units.number} units of {units.layer}")
    return size // units.number


def reordered(
    tensors: Mapping[str, Tensor], units: Sequence[Units], orders: Sequence[Order], *, but: int | None = None
) -> dict[str, Tensor]:
    """Tensors in which unit ``order[i]`` of each layer has come to place i; those of layer ``but`` stay in theirs."""
    found = dict(tensors)
    for number, (unit, order) in enumerate(zip(units, orders, strict=True)):
        for place in unit.places if number != but else ():
            if place.name in found:
                rows = order[:, None] * place.block + np.arange(place.block)
                found[place.name] = found[place.name].index_select(
                    place.axis, torch.from_numpy(rows.ravel()).to(found[place.name].device)
                )
    return found


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"the hidden units of this model cannot be put in another order: {reason}. Alignment takes chains of linear "
        "and convolutional layers with normalisation, activations, pooling and flattening between them."
    )
