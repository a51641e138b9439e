"""Named blocks of weights <-> one flat vector: all mathematics of this package is on the flat side."""

from __future__ import annotations

import difflib
import fnmatch
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Vector = Tensor  # of weights, (dim,)


@dataclass(frozen=True)
class ParameterSpace:
    """An ordered choice of a model's parameters, seen as one vector of ``dim`` coordinates.

    Tied weights are one block and count once; frozen ones (``requires_grad=False``) are left out.

    Attributes:
        names: name of each block, as in ``module.named_parameters()``.
        shapes: shape of each block.

    >>> space = ParameterSpace.of(nn.Linear(3, 2))
    >>> space.dim, space.names
    (8, ('weight', 'bias'))
    >>> vector = torch.arange(8.0)
    >>> torch.equal(space.flatten(space.unflatten(vector)), vector)
    True
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, module: nn.Module) -> ParameterSpace:
        """All trainable parameters of a module.

        Raises:
            ValueError: if there is none, or if they lie on several devices or have several dtypes.
        """
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError(
                f"the model ({type(module).__name__}) has no trainable parameter; set requires_grad on those to measure"
            )
        for what in ("device", "dtype"):
            kinds = sorted({str(getattr(p, what)) for p in trainable.values()})
            if len(kinds) > 1:
                raise ValueError(
                    f"the model's weights must share one {what}; got {', '.join(kinds)}. Use model.to(...)"
                )
        return cls(tuple(trainable), tuple(p.shape for p in trainable.values()))

    @functools.cached_property
    def sizes(self) -> list[int]:
        """The number of coordinates of each block."""
        return [shape.numel() for shape in self.shapes]

    @functools.cached_property
    def dim(self) -> int:
        """The number of coordinates in all."""
        return sum(self.sizes)

    def weights_of(self, model: nn.Module) -> Tensor:
        """What a model has in these blocks, ``(dim,)``, detached.

        Raises:
            ValueError: if it lacks one of them, or a block is of another shape.
        """
        named = dict(model.named_parameters())
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in named or named[name].shape != shape:
                found = f"has it in shape {tuple(named[name].shape)}" if name in named else "has no such block"
                raise ValueError(f"the weights {name} are of shape {tuple(shape)}; the other model {found}")
        return self.flatten({name: named[name].detach() for name in self.names})

    def select(self, pattern: str | Sequence[str]) -> ParameterSpace:
        """The blocks whose name matches a shell-style pattern, such as ``"head.*"`` or ``"*.bias"``, or is in a list.

        They keep their order.

        Raises:
            TypeError: if it is neither a string nor a list.
            ValueError: if nothing matches, or a name in the list is none of a block.
        """
        if isinstance(pattern, list | tuple):
            foreign = [name for name in pattern if name not in self.names]
            if foreign:
                raise ValueError(f"no trainable parameter is called {foreign[0]!r}")
            chosen = [i for i, name in enumerate(self.names) if name in pattern]
        elif isinstance(pattern, str):
            chosen = [i for i, name in enumerate(self.names) if fnmatch.fnmatchcase(name, pattern)]
        else:
            raise TypeError(f"weights are selected by a pattern of their names, such as 'head.*'; got {pattern!r}")
        if not chosen:
            near = difflib.get_close_matches(str(pattern), self.names, n=3, cutoff=0.3) or self.names[:3]
            raise ValueError(f"no trainable parameter matches {pattern!r}; there are, for instance, {', '.join(near)}")
        return ParameterSpace(tuple(self.names[i] for i in chosen), tuple(self.shapes[i] for i in chosen))

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors to one vector.

        Args:
            named: a tensor of the right shape for each name; further names are ignored.

        Returns:
            A new tensor, ``(dim,)``.
        """
        return torch.cat([named[name].reshape(-1) for name in self.names])

    def split(self, vector: Tensor) -> list[Tensor]:
        """One vector ``(dim,)`` to views of the shapes of the blocks.

        Raises:
            ValueError: if the vector has another shape.
        """
        if vector.shape != (self.dim,):
            raise ValueError(f"expected a vector of shape ({self.dim},), one per weight; got {tuple(vector.shape)}")
        parts = torch.split(vector, self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """One vector ``(dim,)`` to a view for each name."""
        return dict(zip(self.names, self.split(vector), strict=True))
