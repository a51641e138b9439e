"""A model whose tensors can be multiplied by factors, and what its outputs do then to first order."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import Batch, map_tensors, tensors
from landscape.forward import call_with
from landscape.orthonormal import gaussian
from landscape.precision import doubled_copy
from landscape.products import second_derivatives
from landscape.results import Array
from landscape.terms import Definition

STATISTICS = "statistics"
_FUSED = ("qkv", "in_proj", "c_attn")  # one tensor for queries, keys and values, in that order
_EPS = ("eps", "variance_epsilon")
_LEAST_PARTS = 4  # that projections are spread over
_OFFSET = 0.1  # of further places, relative to each weight
_FLOOR = 1e-9  # of the largest influence of a tensor on the outputs; below it counts as none


class Block(NamedTuple):
    """What is scaled by one factor: a tensor, a third of one, or the statistics of a batch norm.

    Attributes:
        tensor: the name of the parameter, or ``<batch norm>.statistics``.
        part: which third of its outputs, from 0 on; None for all of it.
    """

    tensor: str
    part: int | None = None

    @property
    def is_statistics(self) -> bool:
        """Whether these are statistics of a batch norm."""
        return self.tensor.rpartition(".")[2] == STATISTICS

    @property
    def layer(self) -> str:
        """The module, and the third of it, for a person."""
        owner = self.tensor.rpartition(".")[0] or "the model"
        return owner if self.part is None else f"{owner} ({self.part + 1} of 3)"


class Influence(NamedTuple):
    """The first-order effect of blocks on random projections of the outputs.

    Attributes:
        blocks: those that the outputs depend on, in the order in which they are computed.
        effects: ``(rows, k + 1)``, of each block per unit of its scale; the last column is minus the outputs.
        scales: ``(k + 1,)``.
    """

    blocks: list[Block]
    effects: Array
    scales: Array


class Scalable:
    """The function that a model computes, at other scales of its tensors.

    Args:
        definition: the model, with its weights, and how it reads a batch.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        model = definition.seam.model
        self.parameters = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
        self.norms = {
            f"{name}.{STATISTICS}".removeprefix("."): norm for name, norm in model.named_modules() if _has_fixed(norm)
        }
        self._names = {module: name for name, module in model.named_modules()}

    @classmethod
    def precise(cls, definition: Definition, batch: Batch) -> Scalable:
        """In double precision, where the model can be evaluated in it; as it is elsewhere."""
        try:
            doubled = cls(definition.doubled())
            doubled.outputs(batch)
        except (RuntimeError, TypeError, ValueError):  # a kernel or a table of single precision, or no memory for it
            return cls(definition)
        return doubled

    @property
    def rounding(self) -> float:
        """ε^(2/3) of the precision that it is evaluated in: what is taken for rounding."""
        (first, *_) = self.parameters.values()
        return float(torch.finfo(first.dtype).eps ** (2 / 3))

    def without_eps(self) -> Scalable:
        """The same function with the eps of every normalisation set to zero, or to what it adds to fixed statistics."""
        seam = copy.deepcopy(self.definition.seam)
        for module in seam.modules():
            if _has_fixed(module):
                module.running_var += module.eps  # type: ignore[operator]
                module.forward = functools.partial(_normalised, module)
            for name in _EPS:
                if isinstance(vars(module).get(name), float):
                    setattr(module, name, 0.0)
        return Scalable(dataclasses.replace(self.definition, seam=seam))

    def outputs(self, batch: Batch, changed: Mapping[str, Tensor] | None = None) -> Tensor:
        """All outputs of a batch in a row, ``(outputs,)``, with other numbers in some tensors."""
        return self.outputs_and_targets(batch, changed or {})[0]

    def outputs_and_targets(self, batch: Batch, changed: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The same, and the targets as they are."""
        seam = self.definition.seam
        (first, *_) = self.parameters.values()
        if first.dtype == torch.float64:
            batch = map_tensors(doubled_copy, batch)
        buffers = {name: buffer.clone() for name, buffer in seam.model.named_buffers()}
        named = {f"model.{name}": value for name, value in (buffers | dict(changed)).items()}
        with torch.set_grad_enabled(any(value.requires_grad for value in changed.values())), self.definition.kernels():
            outputs, targets = call_with(seam, named, batch)
        found = [part.reshape(-1) for part in tensors(outputs) if part.is_floating_point()]
        if not found:
            raise TypeError(f"the outputs of the model must be tensors; got {type(outputs).__name__}")
        return torch.cat(found), targets

    def scaled(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that factors change, by the names of parameters and buffers.

        Statistics are multiplied as the data of their layer would multiply them: mean and standard deviation by the
        factor, with the eps that is added to the variance.
        """
        changed = {}
        for name, factor in factors.items():
            if name in self.norms:
                norm, owner = self.norms[name], name.removesuffix(STATISTICS)
                mean, variance = dict(norm.named_buffers())["running_mean"], dict(norm.named_buffers())["running_var"]
                factor = factor.to(mean)
                changed[f"{owner}running_mean"] = mean * factor
                changed[f"{owner}running_var"] = (variance + norm.eps) * factor.square() - norm.eps
            else:
                tensor = self.parameters[name]
                changed[name] = tensor * factor.to(tensor)
        return changed

    def factor(self, block: Block, value: float) -> Tensor:
        """The factor of the tensor of a block that multiplies this block by a value."""
        if block.part is None:
            return torch.tensor(value, dtype=torch.float64, device="cpu")
        tensor = self.parameters[block.tensor]
        axis, third = _axis_of_thirds(tensor), tensor.shape[_axis_of_thirds(tensor)] // 3
        factors = torch.ones(3 * third, dtype=torch.float64, device="cpu")
        factors[block.part * third : (block.part + 1) * third] = value
        return factors.view([-1 if i == axis else 1 for i in range(tensor.ndim)])

    def influence(self, parts: Sequence[Batch], *, spare: int, seed: int) -> Influence:
        """How random projections of the outputs change with the scale of every block, by automatic differentiation.

        Each part of the data gives a few projections. When all have done so, they give more at further places, the
        weights times e^(0.1 z) with z normal: what leaves the function as it is does so at all weights. There are as
        many projections as unknowns, and some to spare.
        """
        generator, blocks = torch.Generator().manual_seed(seed), self._blocks(parts[0])
        rows = len(blocks) + 1 + spare
        effects, slopes = np.zeros((rows, len(blocks) + 1)), np.zeros(len(blocks))
        row = turn = 0
        while row < rows:
            leaves = self._leaves(generator if turn >= len(parts) else None)
            named = {name: leaf for part in leaves.values() for name, leaf in part.items()}
            with torch.enable_grad(), second_derivatives():
                outputs = self.outputs(parts[turn % len(parts)], named)
            for _ in range(min(max(1, len(outputs) // 2), math.ceil(rows / _LEAST_PARTS), rows - row)):
                probe = gaussian(1, like=outputs.detach(), generator=generator)[:, 0]
                gradients = torch.autograd.grad(
                    outputs, list(named.values()), probe, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                by_name = dict(zip(named, gradients, strict=True))
                for column, block in enumerate(blocks):
                    effect, slope = self._effect(block, leaves[block.tensor], by_name)
                    effects[row, column] = effect
                    slopes[column] += slope
                effects[row, -1] = -float(probe @ outputs.detach())
                row += 1
            turn += 1
        scales = np.sqrt(np.append(slopes, np.square(effects[:, -1]).sum() or 1.0))
        kept = scales > _FLOOR * scales[:-1].max(initial=0)
        kept[-1] = True
        chosen = [block for block, keep in zip(blocks, kept[:-1], strict=True) if keep]
        return Influence(chosen, effects[:, kept] / scales[kept], scales[kept])

    def _leaves(self, generator: torch.Generator | None) -> dict[str, dict[str, Tensor]]:
        """For every tensor that can be scaled what is differentiated in; moved where there is a generator."""

        def leaf(tensor: Tensor) -> Tensor:
            if generator is None:
                return tensor.clone().requires_grad_()
            z = gaussian(1, like=tensor.reshape(-1), generator=generator).view_as(tensor)
            return (tensor * (_OFFSET * z).exp()).requires_grad_()

        leaves = {name: {name: leaf(p)} for name, p in self.parameters.items()}
        for name, norm in self.norms.items():
            owner = name.removesuffix(STATISTICS)
            found = {f"{owner}running_mean": norm.running_mean, f"{owner}running_var": norm.running_var}
            leaves[name] = {key: leaf(value) for key, value in found.items() if value is not None}
        return leaves

    def _effect(self, block: Block, leaf: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> tuple[float, float]:
        """The derivative in the log of the block's scale, and the square of what bounds it."""
        effect = slope = 0.0
        for name, tensor in leaf.items():
            pair = (tensor.detach(), gradients[name])
            if block.part is not None:
                axis = _axis_of_thirds(tensor)
                pair = tuple(part.chunk(3, dim=axis)[block.part] for part in pair)  # type: ignore[assignment]
            power = 2 if name.endswith("running_var") and block.tensor in self.norms else 1
            effect += power * float((pair[0] * pair[1]).sum())
            slope += float(power * pair[0].norm() * pair[1].norm()) ** 2
        return effect, slope

    def _blocks(self, batch: Batch) -> list[Block]:
        """All blocks in the order in which their modules are called; statistics before the weights of their norm."""
        model, called = self.definition.seam.model, dict[str, int]()

        def record(module: nn.Module, *_: object) -> None:
            called.setdefault(self._names[module], len(called))

        handles = [module.register_forward_pre_hook(record) for module in self._names]
        try:
            self.outputs(batch)
        finally:
            for handle in handles:
                handle.remove()
        registered = {name: i for i, (name, _) in enumerate(model.named_modules())}

        def place(tensor: str) -> tuple[int, int]:
            owner = tensor.rpartition(".")[0]
            caller = owner
            while caller and caller not in called:  # a parameter that the module above uses itself
                caller = caller.rpartition(".")[0]
            return called.get(caller, -1), registered.get(owner, 0)

        return [
            Block(name, part)
            for name in sorted([*self.norms, *self.parameters], key=place)
            for part in _parts(name, self.parameters.get(name))
        ]


def product(factors: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Factors one after another, by tensor."""
    found: dict[str, Tensor] = {}
    for one in factors:
        found |= {name: found[name] * factor if name in found else factor for name, factor in one.items()}
    return found


def _has_fixed(module: nn.Module) -> bool:
    """Whether a module is a batch norm that normalises with running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None and not module.training


def _normalised(norm: Any, x: Tensor) -> Tensor:
    """What a batch norm computes in evaluation mode, differentiable in its statistics too."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y: Tensor = (x - norm.running_mean.view(shape)) / norm.running_var.view(shape).sqrt()
    return y if norm.weight is None else y * norm.weight.view(shape) + norm.bias.view(shape)


def _parts(name: str, tensor: Tensor | None) -> Sequence[int | None]:
    fused = tensor is not None and any(mark in name for mark in _FUSED)
    return range(3) if fused and tensor is not None and tensor.shape[_axis_of_thirds(tensor)] % 3 == 0 else (None,)


def _axis_of_thirds(tensor: Tensor) -> int:
    """The outputs of a layer: its first dimension, or the last one where that has three times the size."""
    return tensor.ndim - 1 if tensor.ndim == 2 and tensor.shape[1] == 3 * tensor.shape[0] else 0
