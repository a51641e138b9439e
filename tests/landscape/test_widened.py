"""A model of doubles that casts to float32 inside, as those of transformers do, is measured in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GGNOperator, GradientAscent, HessianOperator, Objective, certify, line_slice, m_sharpness
from landscape.directions import filter_normalized
from landscape.spectrum import top_eigenvalues
from landscape.widened import Narrowing, Widened


class Net(nn.Module):
    """A norm and a softmax; with the casts of models that are made for half precision, or without."""

    def __init__(self, casts):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.places = nn.Buffer(torch.arange(4.0) / 3)
        self.casts = casts

    def forward(self, x):
        narrow = torch.float32 if self.casts else torch.float64
        hidden = self.first(x)
        hidden = hidden.to(narrow) / (1 + hidden.to(dtype=narrow).pow(2).mean(-1, keepdim=True)).sqrt()
        turned = self.places[None].type(narrow).T @ torch.ones(1, 4, dtype=narrow)
        return self.last(functional.softmax(hidden.type_as(x) @ turned.to(x), dim=-1, dtype=narrow).to(x.dtype))


def cast_loss(outputs, targets):
    return functional.cross_entropy(outputs.float(), targets)


def plain_loss(outputs, targets):
    return functional.cross_entropy(outputs, targets)


@pytest.fixture
def pair():
    """The objective with the casts, and that without any."""
    data = [(torch.randn(n, 3).double(), torch.randint(0, 3, (n,))) for n in (5, 4)]
    models = [Net(casts).double() for casts in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    return [Objective(m, loss, data) for m, loss in zip(models, (cast_loss, plain_loss), strict=True)]


def test_every_number_is_that_of_the_model_without_casts(pair):
    cast, plain = pair
    w = cast.weights
    vector = torch.randn_like(w)
    assert torch.equal(cast.loss(w), plain.loss(w))
    assert torch.equal(cast.gradient(w), plain.gradient(w))
    torch.testing.assert_close(cast.hvp(w, vector), plain.hvp(w, vector), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(GGNOperator(cast).apply(vector), GGNOperator(plain).apply(vector), rtol=1e-12, atol=0)
    found = [m_sharpness(o, GradientAscent(rho=0.1), microbatch_size=2).per_shard for o in pair]
    np.testing.assert_allclose(*found, rtol=1e-9)
    lines = [line_slice(o, filter_normalized(o, seed=0), coordinates=[-0.1, 0, 0.1]).losses for o in pair]
    np.testing.assert_allclose(*lines, rtol=1e-14)
    assert certify(top_eigenvalues(HessianOperator(cast), k=1), HessianOperator(cast)).passed


def test_the_manifest_says_that_casts_are_left_out_where_there_are_some(pair):
    cast, plain = (objective.manifest()["objective"] for objective in pair)
    assert cast["casts"] == "to float32 left out"
    assert "casts" not in plain
    single = Objective(Net(True), cast_loss, [(torch.randn(5, 3), torch.arange(5) % 3)])
    assert "casts" not in single.manifest()["objective"]


def test_a_language_model_is_measured_by_its_own_loss():
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    shape = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, num_attention_heads=2)).double().eval()
    ids = torch.randint(0, 20, (5, 4))
    data = [{"input_ids": part, "labels": part} for part in (ids[:3], ids[3:])]
    objective = Objective(
        model,
        lambda outputs, targets: outputs,
        data,
        forward=lambda model, batch: (model(**batch).loss, batch["labels"]),
        denominator=lambda outputs, targets: targets[:, 1:].numel(),
    )
    logits = model(ids).logits
    assert logits.dtype == torch.float64
    own = functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:]).item()
    assert objective.loss(objective.weights).item() == pytest.approx(own, rel=1e-6)  # it rounds its norms to float32
    with Widened():
        logits = model(ids).logits
    exact = functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:]).item()
    assert objective.loss(objective.weights).item() == pytest.approx(exact, rel=1e-14)


class Mixed(nn.Module):
    """A head of doubles on fixed layers in single precision."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.head(self.body(x.float()).double())


def test_layers_that_are_in_single_precision_themselves_stay_so():
    data = [(torch.randn(4, 3).double(), torch.arange(4) % 3)]
    model = Mixed()
    objective = Objective(model, plain_loss, data, denominator=lambda outputs, targets: len(targets))
    assert objective.loss(objective.weights).item() == pytest.approx(plain_loss(model(data[0][0]), data[0][1]).item())
    assert "casts" not in objective.manifest()["objective"]


def test_rounding_that_cannot_be_left_out_is_allowed_for_and_a_loss_that_is_no_mean_is_not():
    class Rounded(nn.Linear):
        def forward(self, x):
            return super().forward(x).type_as(torch.zeros(1)).to(x)

    x, y = torch.randn(9, 3).double(), torch.arange(9) % 3
    for loss in (functional.cross_entropy, lambda z, t: functional.cross_entropy(z.type_as(torch.zeros(1)), t)):
        model = Rounded(3, 3).double()
        objective = Objective(model, loss, [(x, y)])
        exact = Objective(nn.Linear(3, 3).double(), functional.cross_entropy, [(x, y)])
        assert objective.loss(objective.weights).item() == pytest.approx(exact.loss(objective.weights).item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"for what your loss divides by\.$"):
        Objective(nn.Linear(3, 3).double(), lambda z, t: functional.cross_entropy(z, t) * len(z), [(x, y)])
    x, steep = x.float(), lambda z, t: 1e4 * functional.cross_entropy(z, t) + 1e-3 * len(z)
    with pytest.raises(ValueError, match=r"for what your loss divides by\.$"):
        Objective(nn.Linear(3, 3), lambda z, t: steep(z, t) - 1e4 * functional.cross_entropy(z, t).detach(), [(x, y)])


def test_what_makes_less_of_a_double_is_seen_and_nothing_else():
    x = torch.ones(3, dtype=torch.float64)
    with Narrowing() as narrowing:
        (x * torch.ones(3)).sum()
        torch.zeros(2).half()
        x.argmax()
    assert not narrowing.seen
    with Narrowing() as narrowing:
        x.float()
    assert narrowing.seen
