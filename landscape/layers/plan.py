"""How each layer of a model is taken in the two passes of a step."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.layers.attention import SelfAttention
from landscape.layers.convolution import ConvolutionSite, is_padded, padded, site_of
from landscape.layers.linear import LinearSite, TurnedSite
from landscape.layers.norms import ChannelNormSite, TokenNormSite
from landscape.layers.sites import Passes, Site, UnsupportedError
from landscape.layers.tables import EmbeddingSite, RawSite

Forward = Callable[..., Any]


class Plan:
    """The sites of a model's perturbed weights, and what takes the place of which attribute in either pass.

    Args:
        module: the model.
        perturbed: its perturbed weights.

    Attributes:
        sites: one for each operation with weights.
        anchor: what first passes are differentiated in, so that they reach all sites and no weight.
        wants_interleaved: whether convolutions are among the sites.

    Raises:
        UnsupportedError: if a layer cannot be taken this way.
    """

    def __init__(self, module: nn.Module, perturbed: Sequence[Tensor]) -> None:
        self.sites: list[Site] = []
        self.anchor = torch.zeros((), dtype=perturbed[0].dtype, device=perturbed[0].device, requires_grad=True)
        self._raw: list[tuple[nn.Module, str, RawSite]] = []
        self._forwards: list[tuple[nn.Module, Forward, Forward]] = []
        self._batch_norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        self._held = [(layer._parameters, key, p) for layer in module.modules() for key, p in layer._parameters.items()]
        wanted = {id(weight) for weight in perturbed}
        taken: set[nn.Module] = set()
        owners: Counter[int] = Counter()
        for name, layer in module.named_modules():
            if layer in taken:
                continue
            inner = isinstance(layer, nn.MultiheadAttention)
            own = {key: p for key, p in layer.named_parameters(recurse=inner) if id(p) in wanted}
            if own:
                taken |= set(layer.modules()) if inner else set()
                self._add(name or "the model", layer, own)
        for site in self.sites:
            owners.update({id(w) for key, w in site.weights.items() if w is not None and key in site.perturbed})
        if set(owners) != wanted:
            raise UnsupportedError("the optimizer holds weights that are not in the module")
        for site in self.sites:
            site.shared = any(w is not None and owners[id(w)] > 1 for w in site.weights.values())
        self.wants_interleaved = any(isinstance(site, ConvolutionSite) for site in self.sites)

    @property
    def is_current(self) -> bool:
        """Whether the modules still hold the same parameters."""
        for parameters, key, p in self._held:  # noqa: SIM110  a generator takes three times as long
            if parameters.get(key) is not p:
                return False
        return True

    def begin(self, passes: Passes) -> None:
        """Start a step.

        Raises:
            UnsupportedError: if batch norm would have to normalise each micro-batch by its own statistics.
        """
        if any(layer.training or layer.running_mean is None for layer in self._batch_norms):
            raise UnsupportedError("batch norm in training mode normalises each micro-batch by its own statistics")
        for site in self.sites:
            site.begin(passes)

    def learnt(self, loss: Tensor, passes: Passes) -> None:
        """Differentiate the loss of the first pass, so that every site takes in its gradient.

        Raises:
            UnsupportedError: if a site was not called, or the loss does not depend on it.
        """
        for site in self.sites:
            if site.calls == 0:
                raise UnsupportedError(f"{site.name} is not called")
        edges = [edge for edge, _, _ in passes.ends]
        slopes = torch.autograd.grad(loss, [*edges, passes.anchor], allow_unused=True)[:-1]  # type: ignore[arg-type]
        del edges
        with torch.no_grad():
            for slope, (_, site, inputs) in zip(slopes, passes.ends, strict=True):
                if slope is not None:
                    site.told(inputs, slope)
        passes.ends.clear()  # an edge holds the graph behind it, and the inputs that its hooks hold
        for site in self.sites:
            if site.hooked and site.answers < site.calls:
                raise UnsupportedError(f"the loss does not depend on {site.name}")

    def begin_again(self, passes: Passes) -> None:
        """Start on other shards of the examples of a first pass that was recorded; sites learn of these next."""
        for site in self.sites:
            site.passes, site.repeats = passes, 0
            site.clear()

    def perturb(self, passes: Passes) -> None:
        """Find ε_i, and go to w + ε_i."""
        self.move(passes, self.squares(passes))

    def squares(self, passes: Passes) -> list[Tensor]:
        """The squares of the gradients' norms, ``(number,)`` for each run; to be asked for once."""
        found = []
        for run, (stacks, (number, _)) in enumerate(zip(passes.stacks, passes.shards.runs, strict=True)):
            known = [rows for rows in [site.squares(run) for site in self.sites] if rows is not None]
            of_stacks = stacks.squares(number)
            if of_stacks is not None:
                known.append(of_stacks[:, None])
            found.append(torch.cat(known, 1).sum(1) if known else passes.anchor.new_zeros(number))
        return found

    def move(self, passes: Passes, squares: Sequence[Tensor]) -> None:
        """Go to w + ε_i, given the squares."""
        passes.factors = []
        for stacks, total in zip(passes.stacks, squares, strict=True):
            factors = passes.ascent.factors(total)
            passes.factors.append(factors.view(-1, 1, 1))
            stacks.perturb(factors)

    def require_repeats(self) -> None:
        """After the second pass.

        Raises:
            UnsupportedError: if it did not call what the first did.
        """
        for site in self.sites:
            if site.repeats != site.calls:
                raise UnsupportedError(
                    f"the second pass calls {site.name} {site.repeats} times, the first {site.calls}"
                )

    @property
    def precision(self) -> torch.dtype:
        """The coarsest type that a site computed in."""
        return max((site.dtype for site in self.sites), key=lambda dtype: torch.finfo(dtype).eps)

    def clear(self) -> None:
        """Let go of what the passes left."""
        for site in self.sites:
            site.clear()
            site.passes = None  # type: ignore[assignment]

    @contextlib.contextmanager
    def in_place(self, *, second: bool) -> Iterator[None]:
        """Let layers compute what they do in one of the passes, for a while; their hooks are still called."""
        try:
            for layer, *forwards in self._forwards:
                layer.__dict__["forward"] = forwards[second]
            with torch.enable_grad():
                for layer, name, raw in self._raw:
                    layer.__dict__[name] = raw.again(raw.weight) if second else raw.rows()
            yield
        finally:
            for layer, *_ in self._forwards:
                layer.__dict__.pop("forward", None)
            for layer, name, _ in self._raw:
                layer.__dict__.pop(name, None)

    def _add(self, name: str, layer: nn.Module, own: dict[str, Tensor]) -> None:
        if "forward" in layer.__dict__:
            raise UnsupportedError(f"{name} has been given a forward of its own")
        perturbed = frozenset(own)
        if type(layer) is nn.MultiheadAttention:
            attention = SelfAttention(name, layer, perturbed)
            self.sites += attention.sites
            self._forwards.append((layer, attention.replacement(second=False), attention.replacement(second=True)))
            return
        kind = _kind(name, layer)
        if kind is not None:
            site = _sites()[kind](name, layer, perturbed)
            if not perturbed <= site.weights.keys():
                raise UnsupportedError(f"{name} has weights that no {kind.__name__} has")
            if any(layer._parameters.get(key) is not weight for key, weight in site.weights.items()):
                raise UnsupportedError(f"a weight of {name} is computed from others")
            self.sites.append(site)
            self._forwards.append((layer, *_forwards(layer, site)))
            return
        for key, weight in own.items():
            raw = RawSite(f"{name}.{key}", weight)
            self.sites.append(raw)
            self._raw.append((layer, key, raw))


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _linear(kind: type[LinearSite]) -> Callable[..., Site]:
    return lambda name, layer, own: kind(name, {"weight": layer.weight, "bias": layer.bias}, own)


_SITES: dict[type[nn.Module], Callable[..., Site]] = {
    nn.Linear: _linear(LinearSite),
    nn.Embedding: EmbeddingSite,
    nn.LayerNorm: TokenNormSite,
    nn.RMSNorm: TokenNormSite,
    nn.GroupNorm: ChannelNormSite,
    nn.BatchNorm1d: ChannelNormSite,
    nn.BatchNorm2d: ChannelNormSite,
    nn.BatchNorm3d: ChannelNormSite,
    **dict.fromkeys(_CONVOLUTIONS, site_of),
}
_HOLDERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def _sites() -> dict[type[nn.Module], Callable[..., Site]]:
    """The rules by type, with that for the Conv1D of transformers, which GPT-2 is made of, where it is imported."""
    turned = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return _SITES if turned is None else _SITES | {turned: _linear(TurnedSite)}


def _kind(name: str, layer: nn.Module) -> type[nn.Module] | None:
    """The type whose rule a layer follows: its own, or one whose forward it has; None if its weights are its own.

    Raises:
        UnsupportedError: if it is a layer of torch's, or derived from one, without a rule.
    """
    forward = getattr(type(layer), "forward", None)
    for kind in _sites():
        same = isinstance(layer, kind) and forward is kind.forward
        if same and (kind not in _CONVOLUTIONS or type(layer)._conv_forward is kind._conv_forward):  # type: ignore[attr-defined]
            return kind
    if any(base.__module__.startswith("torch.nn.modules.") and base not in _HOLDERS for base in type(layer).__mro__):
        raise UnsupportedError(f"{name} is a {type(layer).__name__}, for which there is no rule")
    return None


def _forwards(layer: Any, site: Site) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    plain = type(layer).forward
    if isinstance(layer, _CONVOLUTIONS) and is_padded(layer):  # the weights act on the padded input
        return (
            lambda inputs: site.watched(padded(layer, site.watches(inputs)), plain(layer, inputs)),
            lambda inputs: site.again(padded(layer, inputs)),
        )
    if isinstance(site, EmbeddingSite):
        return (
            lambda rows: site.watched(each := site.for_each(rows), plain(layer, each)),
            lambda rows: site.again(site.for_each(rows)),
        )
    return lambda inputs: site.watched(inputs, plain(layer, inputs)), site.again
