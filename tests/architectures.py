"""Tiny models of real architectures, with dict batches, padding and ignored labels, and their dense answers.

Nothing of the answers goes through this project: they are written on the model alone, over all the data at once, with
``torch.autograd`` in float64.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import Objective

N, SIZES = 7, (4, 2, 1)  # examples, and those of each batch; the last one is ragged
VOCABULARY, LENGTH, PAD = 12, 5, 1  # RoBERTa finds positions by the number of its padding
LENGTHS = (5, 3, 4, 5, 2, 5, 3)  # of the sentences, before padding
SMALL: dict[str, Any] = {
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 4,
    "num_labels": 3,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
WORDS: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH + 3, "pad_token_id": PAD}


@dataclass(frozen=True)
class Instance:
    """A model, all its data in one batch, and its loss in the words of torch.

    Attributes:
        model: in evaluation mode, in float64; it would draw random numbers in training mode.
        whole: all the data, a mapping with ``labels``.
        criterion: of the model's logits and the labels, a mean over the targets that count.
        counted: the targets of each example that count, ``(N,)``.
        settings: what an :class:`Objective` is given besides model, loss and data.
    """

    model: nn.Module
    whole: Any
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    counted: Tensor = field(default_factory=lambda: torch.ones(N, dtype=torch.long))
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> list[Any]:
        """The data in batches of unequal size, each of the kind that ``whole`` is."""
        parts = zip(*(column.split(SIZES) for column in self.whole.values()), strict=True)
        return [type(self.whole)(dict(zip(self.whole, part, strict=True))) for part in parts]

    def objective(self, **more: Any) -> Objective:
        """What is held against the dense answers."""
        return Objective(self.model, self.criterion, self.batches, **self.settings, **more)


class Dense:
    """The answers for the weights whose names match a pattern; a tied weight counts once.

    Attributes:
        sizes: of the blocks, by name.
        w: the weights, ``(dim,)``.
    """

    def __init__(self, given: Instance, pattern: str = "*") -> None:
        self._given = given
        self._named = {
            name: p.detach().clone()
            for name, p in given.model.named_parameters()
            if p.requires_grad and fnmatch.fnmatch(name, pattern)
        }
        self.sizes = {name: p.numel() for name, p in self._named.items()}
        self.w = torch.cat([p.flatten() for p in self._named.values()])

    def logits(self, w: Tensor, rows: slice = slice(None)) -> Tensor:
        """Of some of the examples."""
        parts = w.split(list(self.sizes.values()))
        placed = {name: part.view_as(p) for (name, p), part in zip(self._named.items(), parts, strict=True)}
        inputs = {key: value[rows] for key, value in self._given.whole.items() if key != "labels"}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self._given.model, placed, (), inputs).logits

    def loss(self, w: Tensor, rows: slice = slice(None)) -> Tensor:
        """The mean over the targets that count in some of the examples."""
        return self._given.criterion(self.logits(w, rows), self._given.whole["labels"][rows])

    def gradient(self, w: Tensor, rows: slice = slice(None)) -> Tensor:
        """∇L of some of the examples, ``(dim,)``."""
        leaf = w.detach().clone().requires_grad_()
        return torch.autograd.grad(self.loss(leaf, rows), leaf)[0]

    @functools.cached_property
    def hessian(self) -> Tensor:
        """∇²L, ``(dim, dim)``."""
        leaf = self.w.clone().requires_grad_()
        return _jacobian(torch.autograd.grad(self.loss(leaf), leaf, create_graph=True)[0], leaf)

    @functools.cached_property
    def gauss_newton(self) -> Tensor:
        """J' (∂²L/∂logits²) J, ``(dim, dim)``."""
        leaf = self.w.clone().requires_grad_()
        logits = self.logits(leaf)
        J = _jacobian(logits.flatten(), leaf)
        heads = logits.detach().flatten().requires_grad_()
        loss = self._given.criterion(heads.view_as(logits), self._given.whole["labels"])
        return J.T @ _jacobian(torch.autograd.grad(loss, heads, create_graph=True)[0], heads) @ J

    @functools.cached_property
    def fisher(self) -> Tensor:
        """Σ_i d_i g_i g_i' / Σ_i d_i with the gradients of single examples, ``(dim, dim)``."""
        return self.mean_over(shards_of(1), lambda row: torch.outer(g := self.gradient(self.w, row), g))

    def mean_over(self, shards: list[slice], ask: Callable[[slice], Tensor]) -> Tensor:
        """The mean of what shards answer, weighted by the targets that count in each; one without any has no answer."""
        counted = [(float(self._given.counted[rows].sum()), rows) for rows in shards]
        return sum(d * ask(rows) for d, rows in counted if d > 0) / sum(d for d, _ in counted)

    def rise(self, rho: float, size: int) -> float:
        """m-sharpness by one step of ascent, over consecutive shards of so many examples."""

        def of_shard(rows: slice) -> Tensor:
            g = self.gradient(self.w, rows)
            return self.loss(self.w + rho * g / g.norm(), rows) - self.loss(self.w, rows)

        return float(self.mean_over(shards_of(size), of_shard))


def shards_of(size: int) -> list[slice]:
    """Consecutive examples, so many in each shard and in the last what is left."""
    return [slice(start, min(start + size, N)) for start in range(0, N, size)]


def _jacobian(outputs: Tensor, leaf: Tensor) -> Tensor:
    """∂outputs/∂leaf, ``(len(outputs), dim)``."""
    eye = torch.eye(len(outputs), dtype=outputs.dtype)
    return torch.autograd.grad(outputs, leaf, eye, retain_graph=True, is_grads_batched=True)[0]


def _words() -> tuple[Tensor, Tensor]:
    """Sentences of several lengths, ``(N, LENGTH)``, and the mask of what is no padding."""
    words = torch.randint(2, VOCABULARY, (N, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.where(mask == 1, words, PAD), mask


def _sentences(kind: str, attention: str) -> Instance:
    """A classifier of padded sentences, with batches of the kind that a tokenizer makes."""
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = getattr(hf, f"{kind}Config")(**SMALL, **WORDS, attn_implementation=attention)
    words, mask = _words()
    whole = hf.BatchEncoding({"input_ids": words, "attention_mask": mask, "labels": torch.arange(N) * 5 % 7 % 3})
    return Instance(getattr(hf, f"{kind}ForSequenceClassification")(config), whole)


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each token given those before it."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def tokens_with_a_target(logits: Tensor, labels: Tensor) -> Tensor:
    """What :func:`next_token` divides by."""
    del logits
    return (labels[:, 1:] != -100).sum()


def _language(attention: str) -> Instance:
    """A language model with tied embeddings; padding, and the beginning of one sentence, are no targets."""
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_inner": 4}
    config = hf.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation=attention)
    assert config.resid_pdrop > 0
    words, mask = _words()
    labels = torch.where(mask == 1, words, -100)
    labels[0, :3] = -100
    model = hf.GPT2LMHeadModel(config)
    assert model.lm_head.weight is model.transformer.wte.weight
    whole = {"input_ids": words, "attention_mask": mask, "labels": labels}
    counted = (labels[:, 1:] != -100).sum(1)
    return Instance(model, whole, next_token, counted, {"denominator": tokens_with_a_target})


def tagging(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of the class of each token; logits are ``(n, length, classes)``."""
    return F.cross_entropy(logits.transpose(1, 2), labels)


def tokens_with_a_class(logits: Tensor, labels: Tensor) -> Tensor:
    """What :func:`tagging` divides by."""
    del logits
    return (labels != -100).sum()


def _tags() -> Instance:
    """A classifier of tokens; padding has no class, and neither has all of one sentence."""
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    words, mask = _words()
    labels = torch.where(mask == 1, words % 3, -100)
    labels[4] = -100
    whole = {"input_ids": words, "attention_mask": mask, "labels": labels}
    model = hf.BertForTokenClassification(hf.BertConfig(**SMALL, **WORDS))
    return Instance(model, whole, tagging, (labels != -100).sum(1), {"denominator": tokens_with_a_class})


def _pictures(size: int) -> dict[str, Tensor]:
    drawn = torch.randn(N, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"pixel_values": drawn, "labels": torch.arange(N) * 5 % 7 % 3}


def _vit() -> Instance:
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    return Instance(hf.ViTForImageClassification(hf.ViTConfig(**SMALL, image_size=4, patch_size=2)), _pictures(4))


def _resnet() -> Instance:
    """A residual network whose batch norm has statistics that are not the default ones."""
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = hf.ResNetConfig(embedding_size=2, hidden_sizes=[2, 3], depths=[1, 1], layer_type="basic", num_labels=3)
    model, generator = hf.ResNetForImageClassification(config), torch.Generator().manual_seed(2)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(0.3 * torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
            part.bias.data.add_(0.5)  # or most of its units would be switched off
    return Instance(model, _pictures(8))


FUSED: dict[str, Callable[[], Instance]] = {
    "BERT": functools.partial(_sentences, "Bert", "sdpa"),
    "RoBERTa": functools.partial(_sentences, "Roberta", "sdpa"),
    "GPT-2": functools.partial(_language, "sdpa"),
    "BERT over tokens": _tags,
    "ViT": _vit,
    "ResNet": _resnet,
}
PLAIN: dict[str, Callable[[], Instance]] = {
    "BERT": functools.partial(_sentences, "Bert", "eager"),
    "RoBERTa": functools.partial(_sentences, "Roberta", "eager"),
    "GPT-2": functools.partial(_language, "eager"),
}


def instance(build: Callable[[], Instance]) -> Instance:
    """An instance, the same at each call; its weights are so large that the Hessian is far from Gauss-Newton's."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = build()
        for parameter in made.model.parameters():
            if parameter.ndim > 1 and build is not _resnet:
                parameter.data.copy_(torch.randn_like(parameter) * 0.6)
    made.model.double().eval()
    return made


@functools.cache
def fused(name: str) -> tuple[Instance, Dense]:
    """An instance with fused attention, and its dense answers, made once; nobody changes them."""
    made = instance(FUSED[name])
    return made, Dense(made)
