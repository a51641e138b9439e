"""Small built-in transformers for text: a classifier of sentences and pairs, and a language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block of Xiong et al. 2020 (arXiv 2002.04745).

    Args:
        width: of the vectors.
        heads: of the attention; they divide the width.
        dropout: share of what either half adds that is dropped in training.
        causal: whether a token sees only those before it.
    """

    def __init__(self, width: int, heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """``(N, T, width)`` -> the same.

        Args:
            x: a vector for each token.
            seen: which tokens may be looked at, ``(N, T)``; all when left out.
        """
        number, tokens, width = x.shape
        heads = self.qkv(self.norm1(x)).view(number, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)  # (N, heads, T, width / heads) each
        mask = None if seen is None else seen[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(number, tokens, width)))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class TextClassifier(nn.Module):
    """Embeddings of words and places, pre-norm blocks, the mean over the tokens that are no padding, a linear head.

    Padding changes nothing: neither the attention nor the mean sees it.

    Args:
        vocabulary: number of words.
        places: the most tokens of a text.
        outputs: classes, or 1 for a regression.
        width: of the vectors.
        depth: blocks.
        heads: of the attention; they divide the width.
        dropout: share that is dropped in training, of the embeddings and of what each half of a block adds.
        kinds: token types: 2 for pairs, 0 for single sentences.

    >>> model = TextClassifier(vocabulary=9, places=4, outputs=3, width=8, depth=1, heads=2, dropout=0.1).eval()
    >>> short, padded = torch.tensor([[5, 6]]), torch.tensor([[5, 6, 0, 0]])
    >>> torch.allclose(model(short), model(padded, torch.tensor([[1, 1, 0, 0]])), atol=1e-6)
    True
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        places: int,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        kinds: int = 0,
    ) -> None:
        super().__init__()
        self.words, self.places = _table(vocabulary, width), _table(places, width)
        self.kinds = _table(kinds, width) if kinds else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(width, heads, dropout=dropout, causal=False) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Scores ``(N, outputs)`` of texts ``(N, T)``.

        Args:
            input_ids: numbers of words.
            attention_mask: 1 for words, 0 for padding; words everywhere when left out.
            token_type_ids: 0 for the first of a pair, 1 for the second; nothing where the model knows no kinds.
        """
        x = self.words(input_ids) + _of_places(self.places, input_ids)
        if self.kinds is not None and token_type_ids is not None:
            x = x + self.kinds(token_type_ids)
        x = self.dropout(x)
        seen = None if attention_mask is None else attention_mask != 0
        for block in self.blocks:
            x = block(x, seen)
        x = self.norm(x)
        if attention_mask is None:
            return self.head(x.mean(1))  # type: ignore[no-any-return]
        counted = attention_mask.to(x.dtype)[..., None]
        return self.head((x * counted).sum(1) / counted.sum(1))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """Embeddings of words and places, causal pre-norm blocks, and a score for each word that may come next.

    Args:
        vocabulary: number of words.
        places: the most tokens of a text.
        width: of the vectors.
        depth: blocks.
        heads: of the attention; they divide the width.
        dropout: share that is dropped in training, of the embeddings and of what each half of a block adds.
        tied: whether the scores are products with the embeddings of the words (Press and Wolf 2017, arXiv 1608.05859).

    A word that comes later changes no score before it:

    >>> model = LanguageModel(vocabulary=9, places=3, width=8, depth=1, heads=2, dropout=0.1, tied=True).eval()
    >>> one, other = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[1, 2, 4]]))
    >>> torch.equal(one[:, :2], other[:, :2]), torch.equal(one[:, 2], other[:, 2])
    (True, False)
    """

    def __init__(
        self, *, vocabulary: int, places: int, width: int, depth: int, heads: int, dropout: float, tied: bool
    ) -> None:
        super().__init__()
        self.words, self.places = _table(vocabulary, width), _table(places, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(width, heads, dropout=dropout, causal=True) for _ in range(depth)])
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.scores.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores of the next word ``(N, T, vocabulary)`` for texts ``(N, T)``."""
        x = self.dropout(self.words(input_ids) + _of_places(self.places, input_ids))
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))  # type: ignore[no-any-return]


def _table(rows: int, width: int) -> nn.Embedding:
    """Vectors of small entries, as of GPT-2: those of torch, of variance one, drown what the blocks add."""
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.02)
    return table


def _of_places(places: nn.Embedding, like: Tensor) -> Tensor:
    """The vectors of places ``(N, T, width)``, looked up for each example, as layer by layer execution needs it."""
    numbers = torch.arange(like.shape[1], device=like.device)
    return places(numbers.expand(like.shape[0], -1))  # type: ignore[no-any-return]
