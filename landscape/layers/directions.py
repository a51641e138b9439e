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
    return math.prod(shape) if len(shape) < 2 else shape[0] + math.prod(shape[1:])


class Directions:
    """z_i for each example i: random signs for a vector of weights, r_i c_i' of two vectors of them for a matrix.

    Entries are signs, and no two of them are correlated, so that E[z_i z_i'] = I. For a kernel c_i has the shape of
    one output's weights. Layers are linear in their weights: a step t z_i adds t times what they make of z_i.

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
        return r.view(*r.shape, *[1] * (weight.ndim - 1)) * c[:, None]

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """r, ``(examples, rows)``, and c, ``(examples, *shape of a row)``, of a weight of two dimensions or more."""
        signs, rows = self._signs[self._places[id(weight)]], len(weight)
        return signs[:, :rows], signs[:, rows:].reshape(-1, *weight.shape[1:])

    def added(self, site: Site, inputs: Tensor) -> Tensor | int:
        """What the steps add to the output of a site.

        Raises:
            UnsupportedError: if there is no rule for the site.
        """
        return _added(site, inputs, self)


@functools.singledispatch
def _added(site: Site, inputs: Tensor, z: Directions) -> Tensor | int:
    del inputs, z
    raise UnsupportedError(f"there is no rule for steps in {site.name}")


@_added.register
def _linear(site: LinearSite, inputs: Tensor, z: Directions) -> Tensor | int:
    added: Tensor | int = 0
    for key, weight in _perturbed(site):
        if key == "weight":
            r, c = z.factors(weight)
            if isinstance(site, TurnedSite):  # its weight is (inputs, outputs)
                r, c = c, r
            along = _each(inputs, c.flatten(1)).mul(inputs).sum(-1, keepdim=True)
            added = added + z.step(weight) * (along * _each(inputs, r))
        else:
            added = added + z.step(weight) * _each(inputs, z.vector(weight))
    return added


@_added.register
def _(site: PatchSite, inputs: Tensor, z: Directions) -> Tensor | int:
    tokens = _linear(site, patches(inputs, site.kernel), z)
    assert isinstance(tokens, Tensor)
    places = [extent // width for extent, width in zip(inputs.shape[2:], site.kernel, strict=True)]
    return tokens.mT.reshape(len(inputs), -1, *places)


@_added.register
def _(site: ConvolutionSite, inputs: Tensor, z: Directions) -> Tensor | int:
    added: Tensor | int = 0
    number, others = len(inputs), [1] * (inputs.ndim - 2)
    for key, weight in _perturbed(site):
        if key == "weight":
            r, c = z.factors(weight)
            kernels = c.repeat_interleave(site.groups, dim=0)  # of each example and group, which have c in common
            found: Any = torch.ops.aten.convolution(
                inputs.reshape(1, -1, *inputs.shape[2:]), kernels, None, *site.geometry, False, [0] * len(others),
                number * site.groups,
            )  # fmt: skip
            along = found.reshape(number, site.groups, *found.shape[2:])
            along = along.repeat_interleave(len(weight) // site.groups, dim=1)
            added = added + z.step(weight) * (along * r.view(number, -1, *others))
        else:
            added = added + z.step(weight) * z.vector(weight).view(number, -1, *others)
    return added


@_added.register
def _(site: TokenNormSite, inputs: Tensor, z: Directions) -> Tensor | int:
    added: Tensor | int = 0
    for key, weight in _perturbed(site):
        between = [1] * (inputs.ndim - 1 - weight.ndim)
        along = z.step(weight) * z.vector(weight).view(len(inputs), *between, *weight.shape)
        added = added + (along * site.normalised(inputs) if key == "weight" else along)
    return added


@_added.register
def _(site: ChannelNormSite, inputs: Tensor, z: Directions) -> Tensor | int:
    added: Tensor | int = 0
    for key, weight in _perturbed(site):
        along = z.step(weight) * z.vector(weight).view(*inputs.shape[:2], *[1] * (inputs.ndim - 2))
        added = added + (along * site.normalised(inputs) if key == "weight" else along)
    return added


@_added.register
def _(site: EmbeddingSite, inputs: Tensor, z: Directions) -> Tensor | int:
    weight = site.layer.weight
    r, c = z.factors(weight)
    along = r.gather(1, inputs.flatten(1)).view(inputs.shape)
    if site.layer.padding_idx is not None:  # it has no gradient
        along = along * (inputs != site.layer.padding_idx)
    return z.step(weight) * (along[..., None] * _each(along[..., None], c))


@_added.register
def _(site: RawSite, inputs: Tensor, z: Directions) -> Tensor | int:
    return z.step(site.weight) * z.vector(site.weight).view(inputs.shape)


def _perturbed(site: Site) -> list[tuple[str, Tensor]]:
    return [(key, weight) for key, weight in site.weights.items() if weight is not None and key in site.perturbed]


def _each(like: Tensor, rows: Tensor) -> Tensor:
    """``(examples, width)`` beside ``(examples, ..., any)``."""
    return rows.view(len(rows), *[1] * (like.ndim - 2), -1)
