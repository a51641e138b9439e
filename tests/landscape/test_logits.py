"""Losses of logits of one length."""

from __future__ import annotations

import functools

import pytest
import torch
from problems import N, classes, normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import (
    AdaptiveAscent,
    HessianOperator,
    LogitNormalized,
    Objective,
    average_case_sharpness,
    every_tensor,
    m_sharpness,
    trace,
    worst_case_sharpness,
)
from landscape.denominators import denominator_of
from landscape.manifest import differences
from landscape.terms import _doubled_loss

ADAPTIVE = AdaptiveAscent(0.1, eta=0.0, scaled=every_tensor)
X, Y = normal(N, 3), classes(N, 3)


class Scaled(nn.Module):
    """A bias-free network and its logits times a number; the last layer is scaled with them, and so are its weights."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
        with torch.no_grad():
            self.layers[2].weight.mul_(factor)

    def forward(self, x):
        return self.layers(x)


def objective(factor, loss):
    return Objective(Scaled(factor), loss, ragged(X, Y))


def test_it_is_the_formula():
    z = normal(N, 3, seed=3)
    unit = z - z.mean(dim=1, keepdim=True)
    unit = unit / unit.square().sum(dim=1, keepdim=True).sqrt()
    ours = LogitNormalized(nn.CrossEntropyLoss(label_smoothing=0.1))(z, Y)
    assert ours.item() == pytest.approx(functional.cross_entropy(unit, Y, label_smoothing=0.1).item(), rel=1e-12)


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: worst_case_sharpness(o, ADAPTIVE, microbatch_size=5, steps=6).value,
        lambda o: average_case_sharpness(o, ADAPTIVE, num_draws=3).value,
        lambda o: m_sharpness(o, ADAPTIVE, microbatch_size=5).value,
    ],
    ids=["worst case", "average case", "m-sharpness"],
)
def test_adaptive_sharpness_of_it_is_blind_to_the_scale_of_the_logits_and_that_of_the_plain_loss_is_not(ask):
    one, ten = (ask(objective(factor, LogitNormalized(nn.CrossEntropyLoss()))) for factor in (1.0, 10.0))
    assert one == pytest.approx(ten, rel=1e-9)
    assert abs(one) > 1e-3
    plain, loud = (ask(objective(factor, nn.CrossEntropyLoss())) for factor in (1.0, 10.0))
    assert abs(loud / plain - 1) > 0.5


def test_tokens_are_normalised_one_by_one():
    z, y = normal(4, 3, 5), classes(20, 3).view(4, 5)
    rows = z.transpose(1, 2).reshape(20, 3)
    loss = LogitNormalized(functional.cross_entropy)
    assert loss(z, y).item() == pytest.approx(loss(rows, y.reshape(20)).item(), rel=1e-12)


@pytest.mark.parametrize("value", [0.1, 0.0, 0.5])
def test_equal_logits_have_a_loss_and_no_slope(value):
    z = torch.full((2, 3), value, dtype=torch.float64, requires_grad=True)
    loss = LogitNormalized(functional.cross_entropy)(z, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-7)
    assert torch.autograd.grad(loss, z)[0].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("shape", [(4, 1), (4, 0), ()])
def test_fewer_than_two_classes_are_refused(shape):
    with pytest.raises(ValueError, match="two classes or more"):
        LogitNormalized(functional.cross_entropy)(torch.zeros(shape), torch.zeros(4).long())


def test_what_is_no_loss_is_refused():
    with pytest.raises(TypeError, match="loss must be a function of logits and targets"):
        LogitNormalized(0.1)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5]).double(), ignore_index=1),
        functools.partial(functional.cross_entropy, weight=torch.tensor([1.0, 4.0, 0.5]).double(), ignore_index=1),
    ],
    ids=["module", "partial"],
)
def test_what_it_divides_by_is_read_off_the_loss_that_is_wrapped(loss):
    z = normal(N, 3, seed=3)
    assert denominator_of(LogitNormalized(loss))(z, Y) == denominator_of(loss)(z, Y)
    given = Objective(Scaled(1.0), LogitNormalized(loss), ragged(X, Y))
    whole = Objective(Scaled(1.0), LogitNormalized(loss), [(X, Y)])
    assert given.weight == whole.weight != N
    assert torch.allclose(given.loss(given.weights), whole.loss(whole.weights), rtol=1e-12)
    assert "cross" in given.manifest()["objective"]["loss"].lower()


def test_sums_are_refused_behind_it_too():
    with pytest.raises(ValueError, match="the loss must be a mean over its batch; got reduction='sum'"):
        objective(1.0, LogitNormalized(nn.CrossEntropyLoss(reduction="sum")))


def test_a_loss_in_single_precision_is_doubled_with_what_it_wraps():
    weight = torch.tensor([1.0, 4.0, 0.5])
    for inner in (nn.CrossEntropyLoss(weight=weight), functools.partial(functional.cross_entropy, weight=weight)):
        loss = _doubled_loss(LogitNormalized(inner))
        assert loss(normal(N, 3), Y).dtype == torch.float64
    single = Objective(Scaled(1.0).float(), LogitNormalized(nn.CrossEntropyLoss(weight=weight)), [(X.float(), Y)])
    assert trace(HessianOperator(single), num_probes=2).stderr >= 0  # its products are certified in double precision


def test_manifests_tell_it_from_the_plain_loss():
    given = problem("tanh_mlp")
    plain, normalised = (Objective(given.model, loss, ragged(given.x, given.y)).manifest() for loss in LOSSES)
    assert [text.split(":")[0] for text in differences(plain, normalised)] == ["objective.loss"]


LOSSES = (functional.cross_entropy, LogitNormalized(functional.cross_entropy))
