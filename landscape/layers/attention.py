"""torch's own multi-head attention: two linear maps around a core without weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.layers.linear import LinearSite
from landscape.layers.sites import UnsupportedError

Map = Callable[[Tensor], Tensor]


class SelfAttention:
    """``nn.MultiheadAttention`` where queries, keys and values are one tensor.

    Args:
        name: what the model calls it.
        layer: the module.
        perturbed: the names of the weights that are perturbed, those of ``out_proj`` included.
    """

    def __init__(self, name: str, layer: nn.MultiheadAttention, perturbed: frozenset[str]) -> None:
        if layer.in_proj_weight is None or layer.bias_k is not None or layer.add_zero_attn:
            raise UnsupportedError(f"{name} has keys or values of another width, bias_k or add_zero_attn")
        self.name = name
        self.layer = layer
        out = layer.out_proj
        self.incoming = LinearSite(
            name,
            {"weight": layer.in_proj_weight, "bias": layer.in_proj_bias},
            frozenset(key.removeprefix("in_proj_") for key in perturbed if key.startswith("in_proj_")),
        )
        self.outgoing = LinearSite(
            f"{name}.out_proj",
            {"weight": out.weight, "bias": out.bias},
            frozenset(key.removeprefix("out_proj.") for key in perturbed if key.startswith("out_proj.")),
        )

    @property
    def sites(self) -> list[LinearSite]:
        """Those with perturbed weights."""
        return [site for site in (self.incoming, self.outgoing) if site.perturbed]

    def replacement(self, *, second: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """What takes the place of the module's forward in either pass."""
        layer = self.layer
        incoming, outgoing = (_map(site, second=second) for site in (self.incoming, self.outgoing))

        def forward(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            key_padding_mask: Tensor | None = None,
            need_weights: bool = True,
            attn_mask: Tensor | None = None,
            average_attn_weights: bool = True,
            is_causal: bool = False,  # noqa: ARG001  torch wants the mask as well
        ) -> tuple[Tensor, Tensor | None]:
            if query is not key or key is not value or query.ndim != 3:
                raise UnsupportedError(f"{self.name} is no self-attention over one batch of sequences")
            x = query if layer.batch_first else query.transpose(0, 1)
            examples, tokens, width = x.shape
            heads = incoming(x).view(examples, tokens, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = heads.unbind(0)
            mask = _mask(attn_mask, key_padding_mask, q)
            dropout = layer.dropout if layer.training else 0.0
            weights = None
            if need_weights:
                scores = q @ k.mT / math.sqrt(q.shape[-1])
                weights = functional.softmax(scores if mask is None else scores + mask, -1)
                weights = functional.dropout(weights, dropout) if dropout else weights
                mixed = weights @ v
            else:
                mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
            y = outgoing(mixed.transpose(1, 2).reshape(examples, tokens, width))
            if weights is not None and average_attn_weights:
                weights = weights.mean(1)
            return y if layer.batch_first else y.transpose(0, 1), weights

        return forward


def _map(site: LinearSite, *, second: bool) -> Map:
    weight, bias = site.weights["weight"], site.weights["bias"]
    assert weight is not None
    if not site.perturbed:
        return lambda x: functional.linear(x, weight, bias)
    if second:
        return site.again
    return lambda x: site.watched(x, functional.linear(x, weight, bias))


def _mask(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as what is added to the scores, ``(examples, heads or 1, tokens, tokens)`` or ``(tokens, tokens)``."""
    attention, padding = _added(attention, like), _added(padding, like)
    if attention is not None and attention.ndim == 3:
        attention = attention.view(len(like), -1, *attention.shape[1:])
    if padding is None:
        return attention
    padding = padding[:, None, None]
    return padding if attention is None else attention + padding


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return None if mask is None else mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
