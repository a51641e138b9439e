"""Little networks with weights of every kind, in double precision, batches for them, and executions held together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from landscape import AdaptiveAscent, GradientAscent
from msam.descents import AtPerturbation
from msam.execution import OneByOne
from msam.microbatches import sizes
from msam.step import Step

ASCENTS = [GradientAscent(rho=0.3), AdaptiveAscent(rho=0.5, eta=0.1)]
B = 11  # does not divide by most numbers of micro-batches


def images(*shape):
    return torch.randn(B, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def words():
    return torch.randint(0, 7, (B, 5), generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    """One head, with a residual connection and layer norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(functional.scaled_dot_product_attention(q, k, v))


class Tokens(nn.Module):
    """A little transformer over words, some of them padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 6, padding_idx=0), nn.Embedding(5, 6)
        self.body, self.head = Attention(), nn.Linear(6, 3)

    def forward(self, x):
        places = torch.arange(x.shape[1]).expand(len(x), -1)
        return self.head(self.body(self.words(x) + self.places(places)).mean(1))


class Numbered(nn.Module):
    """Words at places that are looked up once for all examples: as a row, as of BERT and GPT-2, and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.more = nn.Embedding(7, 6), nn.Embedding(5, 6), nn.Embedding(40, 6)
        self.body, self.head = Attention(), nn.Linear(6, 3)

    def forward(self, x):
        places = torch.arange(x.shape[1])
        return self.head(self.body(self.words(x) + self.places(places) + self.more(places[None])).mean(1))


class Tied(nn.Module):
    """Words are looked up in, and compared with, one table."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scores, self.head = nn.Embedding(7, 6, padding_idx=1), nn.Linear(6, 7), nn.Linear(7, 3)
        self.scores.weight = self.words.weight

    def forward(self, x):
        return self.head(self.scores(self.words(x)).mean(1))


class Patches(nn.Module):
    """Non-overlapping patches, a class token, and two ways of writing the vectors of places."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 6, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 10, 6))
        self.more = nn.ParameterList([torch.randn(10, 6)])
        self.body, self.norm, self.head = Attention(), nn.RMSNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places + self.more[0]
        return self.head(self.norm(self.body(tokens))[:, 0])


class Residual(nn.Module):
    """Two convolutions with group norm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, stride=2, bias=False), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.GroupNorm(1, 4)
        self.shortcut, self.head = nn.Conv2d(2, 4, 1, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)), inplace=True)))
        return self.head(functional.relu(inner + self.shortcut(x)).mean((2, 3)))


class SelfAttention(nn.Module):
    """torch's own attention, and its own layer of a transformer; what is padding depends on the example."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.arange(x.shape[1]) >= 2 + (x[:, :1, 0] > 0)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        y = x if self.inner.batch_first else x.transpose(0, 1)
        y, weights = self.inner(y, y, y, key_padding_mask=hidden, attn_mask=causal)
        y = y if self.inner.batch_first else y.transpose(0, 1)
        y = self.layer(y, src_key_padding_mask=hidden)
        return self.head(y.mean(1)) + weights.square().mean((1, 2))[:, None]


class Circles(nn.Module):
    """Convolutions along one axis, one of them around a circle, one in patches that leave a rest."""

    def __init__(self) -> None:
        super().__init__()
        self.around = nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular", dilation=2)
        self.patches, self.head = nn.Conv1d(3, 4, 2, stride=2, bias=False), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.patches(self.around(x).tanh()).mean(2))


def twice():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(5, 3))


def tied():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Linear(5, 3))


def normalised():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm.eval(), nn.Flatten(), nn.Linear(16, 3))


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 40), nn.ReLU(inplace=True), nn.Linear(40, 3)), images(5)),
    "narrow": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False), nn.Tanh(), nn.Linear(2, 3)), images(5)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)), images(5)),
    "layer norm over two axes": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm((4, 6)), nn.Flatten(), nn.Linear(24, 3)),
        images(4, 5),
    ),
    "layer norm without shift": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, bias=False), nn.Linear(6, 3)),
        images(5),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, 3)),
        images(4, 5),
    ),
    "attention": (lambda: nn.Sequential(nn.Linear(5, 6), Attention(), nn.Flatten(), nn.Linear(24, 3)), images(4, 5)),
    "wide tokens": (
        lambda: nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Flatten(), nn.Linear(60, 3)),
        images(2, 20),
    ),
    "words": (Tokens, words()),
    "numbered words": (Numbered, words()),
    "tied words": (Tied, words()),
    "called twice": (twice, images(5)),
    "tied": (tied, images(5)),
    "patches": (Patches, images(2, 6, 6)),
    "residual": (Residual, images(2, 6, 6)),
    "self-attention": (lambda: SelfAttention(batch_first=True), images(4, 6)),
    "self-attention, tokens first": (lambda: SelfAttention(batch_first=False), images(4, 6)),
    "circles": (Circles, images(2, 7)),
    "solid": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2, bias=False), nn.Flatten(), nn.Linear(16, 3)),
        images(1, 3, 3, 3),
    ),
    "batch norm in evaluation": (normalised, images(2, 4, 4)),
}


def net(name):
    """A network and a batch of eleven examples."""
    build, inputs = NETS[name]
    torch.manual_seed(2)
    targets = torch.randint(0, 3, (B,), generator=torch.Generator().manual_seed(3))
    return build().double(), (inputs, targets)


def closure_of(model):
    """The mean cross-entropy of a batch."""
    return lambda batch: functional.cross_entropy(model(batch[0]), batch[1])


def step_of(model, batch, number, ascent, *, closure=None, perturbed=None, **settings):
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts = sizes(len(batch[1]), number)
    return Step(
        closure=closure or closure_of(model),
        batch=batch,
        sizes=parts,
        own=settings.pop("own", range(len(parts))),
        parameters=parameters,
        perturbed=[True] * len(parameters) if perturbed is None else perturbed,
        descent=AtPerturbation(ascent),
        module=model,
        **settings,
    )


def require_same(step, execution, *, tolerance=1e-12):
    """The same outcome as one after another, within a relative tolerance on the whole gradient."""
    ours, theirs = execution.outcome(step), OneByOne().outcome(step)
    assert execution.reason is None
    assert torch.allclose(ours.loss, theirs.loss, rtol=1e-12)
    assert abs(ours.denominator - theirs.denominator) <= 1e-12 * theirs.denominator
    assert ours.reported == theirs.reported
    assert bool(ours.finite)
    assert [g is None for g in ours.gradient] == [g is None for g in theirs.gradient]
    pairs = [(a, b) for a, b in zip(ours.gradient, theirs.gradient, strict=True) if a is not None]
    for a, b in pairs:
        assert (a - b).norm() <= 10 * tolerance * torch.cat([d.flatten() for _, d in pairs]).norm()
    far = torch.cat([(a - b).flatten() for a, b in pairs]).norm()
    assert far <= tolerance * torch.cat([b.flatten() for _, b in pairs]).norm()
