"""A random direction in the weights for each example, and what a step along it adds to the output of a layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.layers.convolution import ConvolutionSite, PatchSite, patches
from landscape.layers.linear import LinearSite, TurnedSite
from landscape.layers.norms import ChannelNormSite, TokenNormSite
from landscape.layers.sites import Site, UnsupportedError
from landscape.layers.tables import EmbeddingSite, RawSite


def num_signs(shape: Sequence[int]) -> int:
    """How many random signs a direction in a weight of this shape takes."""
    return sum(shape[:2]) + math.prod(shape[2:]) * (len(shape) > 2) if len(shape) > 1 else math.prod(shape)


class Directions:
    """z_i for each example i: random signs in a vector of weights, products r c of two vectors of them in a matrix.

    In a kernel, rows by columns by places, they are products r c p of three. All entries are signs, and no two of them
    are correlated, so that E[z_i z_i'] = I. Layers are linear in their weights: a step t z_i adds t times what they
    make of z_i.

    Args:
        weights: those that steps are taken in.
        signs: of each, ``(examples, num_signs)``.

    Attributes:
        steps: t of each weight, ``(weights,)``, zero; what outputs can be differentiated in.
    """

    def __init__(self, weights: Sequence[Tensor], signs: Sequence[Tensor]) -> None:
        self.steps = signs[0].new_zeros(len(weights), requires_grad=True)
        self._places = {id(weight): place for place, weight in enumerate(weights)}
        self._signs = signs

    def step(self, weight: Tensor) -> Tensor:
        """t of a weight."""
        return self.steps[self._places[id(weight)]]

    def vector(self, weight: Tensor) -> Tensor:
        """z, ``(examples, *shape)``."""
        if weight.ndim < 2:
            return self._signs[self._places[id(weight)]].view(-1, *weight.shape)
        r, c = self.factors(weight)
        return (r[:, :, None] * c[:, None]).view(-1, *weight.shape)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """r, ``(examples, rows)``, and c, or c p, ``(examples, entries of a row)``, of a matrix or a kernel."""
        if weight.ndim == 2:
            r, c = self._parts(weight)
            return r, c
        r, c, p = self._parts(weight)
        return r, (c[:, :, None] * p[:, None]).flatten(1)

    def factors_of_kernel(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r, ``(examples, rows)``, c, ``(examples, columns)``, and p, ``(examples, *places)``."""
        r, c, p = self._parts(weight)
        return r, c, p.reshape(-1, *weight.shape[2:])

    def moved(self, site: Site, inputs: Tensor, output: Tensor) -> Tensor:
        """The output of a site after the steps.

        Raises:
            UnsupportedError: if there is no rule for the site.
        """
        return _moved(site, inputs, output, self)

    def _parts(self, weight: Tensor) -> Sequence[Tensor]:
        sizes = [*weight.shape[:2], *([weight.shape[2:].numel()] if weight.ndim > 2 else [])]
        return torch.split(self._signs[self._places[id(weight)]], sizes, dim=1)


@functools.singledispatch
def _moved(site: Site, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    del inputs, output, z
    raise UnsupportedError(f"there is no rule for steps in {site.name}")


@_moved.register
def _linear(site: LinearSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    for key, weight in _perturbed(site):
        if key == "weight":
            r, c = z.factors(weight)
            if isinstance(site, TurnedSite):  # its weight is (inputs, outputs)
                r, c = c, r
            along = z.step(weight) * (inputs * _each(inputs, c)).sum(-1, keepdim=True)
            output = torch.addcmul(output, along, _each(inputs, r))
        else:
            output = torch.addcmul(output, z.step(weight), _each(inputs, z.vector(weight)))
    return output


@_moved.register
def _(site: PatchSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    return _linear(site, patches(inputs, site.kernel), output.flatten(2).mT, z).mT.reshape(output.shape)


@_moved.register
def _(site: ConvolutionSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    number, groups, others = len(inputs), site.groups, [1] * (inputs.ndim - 2)
    for key, weight in _perturbed(site):
        if key == "weight":
            r, c, p = z.factors_of_kernel(weight)
            grouped = inputs.reshape(number, groups, -1, *inputs.shape[2:])
            image = (grouped * c.view(number, 1, -1, *others)).sum(2)  # the channels of a group as one
            kernels = p[:, None].repeat_interleave(groups, dim=0)
            flat = image.reshape(1, number * groups, *image.shape[2:])
            found: Any = torch.ops.aten.convolution(
                flat, kernels, None, *site.geometry, False, [0] * len(others), number * groups
            )
            along = found.reshape(number, groups, *found.shape[2:])
            along = along if groups == 1 else along.repeat_interleave(len(weight) // groups, dim=1)
            output = torch.addcmul(output, z.step(weight) * along, r.view(number, -1, *others))
        else:
            output = torch.addcmul(output, z.step(weight), z.vector(weight).view(number, -1, *others))
    return output


@_moved.register
def _(site: TokenNormSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    for key, weight in _perturbed(site):
        between = [1] * (inputs.ndim - 1 - weight.ndim)
        direction = z.vector(weight).view(len(inputs), *between, *weight.shape)
        output = torch.addcmul(output, _scaled(site, key, inputs, z.step(weight)), direction)
    return output


@_moved.register
def _(site: ChannelNormSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    for key, weight in _perturbed(site):
        direction = z.vector(weight).view(*inputs.shape[:2], *[1] * (inputs.ndim - 2))
        output = torch.addcmul(output, _scaled(site, key, inputs, z.step(weight)), direction)
    return output


@_moved.register
def _(site: EmbeddingSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    weight = site.layer.weight
    r, c = z.factors(weight)
    along = r.gather(1, inputs.reshape(len(inputs), -1)).view(*inputs.shape, 1)
    if site.layer.padding_idx is not None:  # it has no gradient
        along = along * (inputs != site.layer.padding_idx)[..., None]
    return torch.addcmul(output, z.step(weight) * along, _each(along, c))


@_moved.register
def _(site: RawSite, inputs: Tensor, output: Tensor, z: Directions) -> Tensor:
    return torch.addcmul(output, z.step(site.weight), z.vector(site.weight).view(inputs.shape))


def _scaled(site: TokenNormSite | ChannelNormSite, key: str, inputs: Tensor, step: Tensor) -> Tensor:
    return step * site.normalised(inputs) if key == "weight" else step


def _perturbed(site: Site) -> list[tuple[str, Tensor]]:
    return [(key, weight) for key, weight in site.weights.items() if weight is not None and key in site.perturbed]


def _each(like: Tensor, rows: Tensor) -> Tensor:
    """``(examples, width)`` beside ``(examples, ..., any)``."""
    return rows.view(len(rows), *[1] * (like.ndim - 2), -1)
