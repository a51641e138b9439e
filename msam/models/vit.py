"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention over the tokens of each image, out of linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, tokens, width)`` -> ``(N, tokens, width)``."""
        number, tokens, width = x.shape
        q, k, v = self.qkv(x).view(number, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)  # (N, heads, tokens, width / heads)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(number, tokens, width))
        return out


class EncoderBlock(nn.Module):
    """Attention and a perceptron four times as wide, each after a layer norm and added to what it was given."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, tokens, width)`` -> ``(N, tokens, width)``."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        result: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return result


class Pool(Protocol):
    """How the tokens of an image become the one vector that is normalised and goes to the head.

    Attributes:
        tokens: that are put before those of the patches, and learnt.
    """

    tokens: int

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, tokens, width)`` -> ``(N, width)``."""
        ...


class ClassToken:
    """A token of its own, which looks at the patches."""

    tokens = 1

    def __call__(self, x: Tensor) -> Tensor:
        """The first token."""
        return x[:, 0]


class MeanOfPatches:
    """The mean over the patches, with no other token (Dosovitskiy et al. 2021, appendix D.3)."""

    tokens = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The mean over all tokens."""
        return x.mean(dim=1)


class ViT(nn.Module):
    """A transformer over the patches of an image, norms first.

    Places have vectors that are learnt, one for each token. Linear maps begin with the uniform
    weights of Glorot and Bengio 2010, patches with normal ones of variance 1 / pixels, as in the authors' code; so
    small networks learn several times as fast as from torch's own.

    Args:
        channels: of the images.
        size: their side in pixels.
        classes: outputs.
        patch: side of a patch in pixels.
        depth: blocks.
        width: of a token.
        heads: of the attention.
        dropout: share that is dropped of the tokens at the start, after attention and in the perceptrons.
        pool: how the tokens of the last block become one vector; a class token when left out.

    Raises:
        ValueError: if patches do not fill the image, or heads the width.

    >>> vit = ViT(channels=3, size=32, classes=10, patch=4, depth=6, width=48, heads=4)
    >>> sum(p.numel() for p in vit.parameters())
    175738
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        patch: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float = 0.0,
        pool: Pool | None = None,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide the side of the images, {size} pixels; got {patch}")
        if width % heads:
            raise ValueError(f"width must be a multiple of the {heads} heads; got {width}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.pool = pool = ClassToken() if pool is None else pool
        self.class_token = nn.Parameter(torch.randn(1, pool.tokens, width) * 0.02) if pool.tokens else None
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2 + pool.tokens, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        self._begin()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, size, size)`` -> ``(N, classes)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (N, patches, width)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1)
        logits: Tensor = self.head(self.norm(self.pool(self.blocks(self.dropout(tokens + self.places)))))
        return logits

    def _begin(self) -> None:
        nn.init.normal_(self.patches.weight, std=self.patches.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, Attention):  # three maps, of which each has its own variance
                for part in layer.qkv.weight.detach().chunk(3):
                    nn.init.xavier_uniform_(part)
