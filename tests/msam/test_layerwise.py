"""All micro-batches at once, layer by layer, give the gradient of one after another; what cannot be taken says why."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import AdaptiveAscent, GradientAscent
from msam import mSAM
from msam.execution import OneByOne
from msam.layerwise import Layerwise
from msam.shards import Shards

B = 11  # does not divide by most numbers of micro-batches


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


def images(*shape):
    return torch.randn(B, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def words():
    return torch.randint(0, 7, (B, 5), generator=torch.Generator().manual_seed(1))


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 40), nn.ReLU(inplace=True), nn.Linear(40, 3)), images(5)),
    "narrow": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False), nn.Tanh(), nn.Linear(2, 3)), images(5)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)), images(5)),
    "layer norm over two axes": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm((4, 6)), nn.Flatten(), nn.Linear(24, 3)),
        images(4, 5),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, 3)),
        images(4, 5),
    ),
    "attention": (lambda: nn.Sequential(nn.Linear(5, 6), Attention(), nn.Flatten(), nn.Linear(24, 3)), images(4, 5)),
    "words": (Tokens, words()),
}


def net(name):
    build, inputs = NETS[name]
    torch.manual_seed(2)
    targets = torch.randint(0, 3, (B,), generator=torch.Generator().manual_seed(3))
    return build().double(), (inputs, targets)


def closure_of(model):
    return lambda batch: functional.cross_entropy(model(batch[0]), batch[1])


def optimizer_of(model, number, execution, *, rho=0.1):
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.2, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=rho), num_microbatches=number, module=model, execution=execution)


@pytest.mark.parametrize("number", [1, 2, 3, 5, B])
@pytest.mark.parametrize("name", NETS)
def test_it_takes_the_steps_of_one_after_another(name, number):
    model, batch = net(name)
    other = copy.deepcopy(model)
    execution = Layerwise()
    ours, theirs = optimizer_of(model, number, execution), optimizer_of(other, number, OneByOne())
    for _ in range(3):
        loss, expected = ours.step(closure_of(model), batch), theirs.step(closure_of(other), batch)
        assert torch.allclose(loss, expected, rtol=1e-12)
    assert execution.reason is None
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_frozen_weights_are_not_perturbed():
    model, batch = net("attention")
    model[0].weight.requires_grad_(False)
    model[1].norm.bias.requires_grad_(False)
    other = copy.deepcopy(model)
    execution = Layerwise()
    optimizer_of(model, 3, execution).step(closure_of(model), batch)
    optimizer_of(other, 3, OneByOne()).step(closure_of(other), batch)
    assert execution.reason is None
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-13)


def test_both_passes_see_the_same_dropout_mask_and_the_random_state_moves_on_once():
    torch.manual_seed(2)
    dropout = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(5, 8), dropout, nn.Linear(8, 3)).double()
    masks = []
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    optimizer, batch = optimizer_of(model, 4, Layerwise()), (images(5), torch.zeros(B, dtype=torch.long))
    optimizer.step(closure_of(model), batch)
    assert optimizer.execution.reason is None
    masks.clear()
    torch.manual_seed(5)
    optimizer.step(closure_of(model), batch)
    after = torch.get_rng_state()
    assert torch.equal(*masks)
    torch.manual_seed(5)
    model(batch[0])
    assert torch.equal(after, torch.get_rng_state())


def test_weights_gradients_and_forwards_are_what_they_were_after_an_error_in_either_pass():
    model, batch = net("words")
    optimizer = optimizer_of(model, 3, Layerwise())
    optimizer.step(closure_of(model), batch)
    before = copy.deepcopy(model.state_dict())
    for fail_at in (1, 2):
        calls = []

        def closure(part, calls=calls, fail_at=fail_at):
            calls.append(None)
            if len(calls) == fail_at:
                raise RuntimeError("no more")
            return closure_of(model)(part)

        with pytest.raises(RuntimeError, match="no more"):
            optimizer.step(closure, batch)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any("forward" in layer.__dict__ for layer in model.modules())


class UsedOutside(nn.Module):
    """A weight that also acts outside its layer, which no rule sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x) + x @ self.layer.weight.T


def twice():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(5, 3))


def tied():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Linear(5, 3))


class WithUnused(nn.Sequential):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 3))
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self[0](x)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "batch norm in training mode"),
        (lambda: nn.Sequential(nn.Bilinear(5, 5, 3)), "there is no rule"),
        (UsedOutside, "its gradient was off by"),
        (twice, "0 is called more than once in a pass"),
        (tied, "a weight is shared by two layers"),
        (WithUnused, "spare is not called"),
    ],
)
def test_a_model_that_cannot_be_taken_falls_back_with_one_warning_that_says_why(build, reason):
    torch.manual_seed(2)
    model = build().double()
    other = copy.deepcopy(model)
    pair = isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.Bilinear)
    closure = lambda m: lambda b: functional.cross_entropy(m[0](b[0], b[0]) if pair else m(b[0]), b[1])  # noqa: E731
    ours, theirs = optimizer_of(model, 3, Layerwise()), optimizer_of(other, 3, OneByOne())
    batch = (images(5), torch.zeros(B, dtype=torch.long))
    with pytest.warns(UserWarning, match=reason):
        ours.step(closure(model), batch)
    theirs.step(closure(other), batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no second warning
        ours.step(closure(model), batch)
    theirs.step(closure(other), batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_a_loss_that_is_no_plain_mean_is_found_out_on_the_first_step():
    model, (inputs, targets) = net("mlp")
    weight = torch.tensor([1.0, 5.0, 0.2]).double()
    optimizer = optimizer_of(model, 3, Layerwise())
    with pytest.warns(UserWarning, match="the loss is perhaps no plain mean over examples"):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1], weight=weight), (inputs, targets))


def test_other_perturbations_and_a_missing_module_fall_back():
    model, batch = net("mlp")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"AdaptiveAscent\(rho=0.5, eta=0.01\) is not a multiple of the gradient"):
        mSAM(sgd, AdaptiveAscent(rho=0.5), module=model, execution=Layerwise()).step(closure_of(model), batch)
    with pytest.warns(UserWarning, match="mSAM was not given the module"):
        mSAM(sgd, GradientAscent(rho=0.5), execution=Layerwise()).step(closure_of(model), batch)


def test_without_a_perturbation_it_is_one_after_another():
    model, batch = net("mlp")
    other = copy.deepcopy(model)
    optimizer_of(model, 3, Layerwise(), rho=0.0).step(closure_of(model), batch)
    optimizer_of(other, 3, OneByOne(), rho=0.0).step(closure_of(other), batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_shards_cut_and_join_a_ragged_batch():
    shards = Shards.of([3, 3, 2, 2, 1])
    rows = torch.arange(22).view(11, 2)
    blocks = list(shards.cut(rows))
    assert [tuple(block.shape) for block in blocks] == [(2, 3, 2), (2, 2, 2), (1, 1, 2)]
    assert torch.equal(shards.join(blocks), rows)
    assert torch.allclose(shards.scales(torch.zeros(1)), 11 / torch.tensor([3.0, 3.0, 2.0, 2.0, 1.0]))
