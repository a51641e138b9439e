"""Steps of each example's own, in models whose weights also act outside of layers, or are used as they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import classes, normal
from torch import nn

from landscape import ExactGaussNewton, GGNOperator, HessianOperator, Objective, PerExample, diagonal, squares, trace

N = 6
TOKENS = torch.randint(0, 7, (N, N), generator=torch.Generator().manual_seed(1))
FIRST = int(TOKENS[0, 0])
ESTIMATORS = (PerExample(), ExactGaussNewton())


class Net(nn.Module):
    """Any forward over an embedding, a linear layer and parameters of its own."""

    def __init__(self, forward, **shapes):
        super().__init__()
        self.words, self.linear, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * 0.5))
        self.what = forward

    def forward(self, x):
        return self.what(self, x)


def objective_of(forward, x=TOKENS, *, chunk_size=None, **shapes):
    torch.manual_seed(0)
    model = Net(forward, **shapes).double()
    return Objective(model, F.cross_entropy, [(x, classes(len(x), 3, seed=2))], chunk_size=chunk_size)


REFUSED = {
    "a weight of a layer is used by itself, too": (
        lambda m, x: m.head(torch.tanh(m.linear(m.words(x).mean(1))) @ m.linear.weight),
        {},
    ),
    "a head made of an embedding": (
        lambda m, x: (
            F.linear(m.linear(m.words(x).mean(1)).tanh() + m.head.bias.sum(), m.words.weight)[:, :3]
            + 0 * m.head(m.linear.bias).sum()
        ),
        {},
    ),
    "a scale that is broadcast over as many tokens as examples": (
        lambda m, x: m.head(m.linear(m.words(x) * m.gain).tanh().mean(1)),
        {"gain": (4,)},
    ),
    "a token that is taken out of its copies": (
        lambda m, x: m.head(m.linear(torch.cat([m.token[0].expand(len(x), 1, -1), m.words(x)], 1)).tanh().mean(1)),
        {"token": (1, 1, 4)},
    ),
    "a table that is indexed": (
        lambda m, x: m.head(m.linear(m.words(x) + m.table[x]).tanh().mean(1)),
        {"table": (7, 4)},
    ),
    "a temperature": (lambda m, x: m.head(m.linear(m.words(x)).tanh().mean(1)) * m.scale, {"scale": ()}),
    "a layer that is called by a keyword": (lambda m, x: m.head(m.linear(input=m.words(x)).tanh().mean(1)), {}),
    "a matrix": (lambda m, x: m.head(m.linear(m.words(x).mean(1)) @ m.matrix), {"matrix": (4, 4)}),
    "a use behind a gate that the first example does not open": (
        lambda m, x: (
            m.head((x[:, :1] != FIRST) * (m.words(x).mean(1) @ m.linear.weight))
            + m.head(m.linear(m.words(x).mean(1)).tanh())
        ),
        {},
    ),
}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
@pytest.mark.parametrize(("forward", "shapes"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_told_apart_by_examples_is_refused(forward, shapes, estimator):
    objective = objective_of(forward, **shapes)
    with pytest.raises(ValueError, match=r"cannot take this model layer by layer: .*Use KrylovAware\(\)\.$"):
        trace(HessianOperator(objective), 30, estimator=estimator)


TAKEN = {
    "numbers of rows, one to an example": (lambda m, x: m.head(m.linear(m.words(x)).tanh()), TOKENS[0], {}),
    "a token and places": (
        lambda m, x: m.head(
            m.linear(torch.cat([m.token.expand(len(x), -1, -1), m.words(x) + m.places], 1)).tanh().mean(1)
        ),
        TOKENS,
        {"token": (1, 1, 4), "places": (N, 4)},
    ),
    "a scale of what has one row to an example": (
        lambda m, x: m.head(m.gain * m.linear(m.words(x).mean(1)).tanh()),
        TOKENS,
        {"gain": (4,)},
    ),
}


@pytest.mark.parametrize(("forward", "x", "shapes"), TAKEN.values(), ids=TAKEN.keys())
def test_what_can_be_is_right(forward, x, shapes):
    objective = objective_of(forward, x, **shapes)
    found = diagonal(GGNOperator(objective), 30, estimator=ExactGaussNewton())
    wanted = diagonal(GGNOperator(objective), 10**4)
    assert (found.num_products, wanted.num_products) == (2, objective.space.dim)
    assert abs(found.estimates - wanted.estimates).max() < 1e-12 * abs(wanted.estimates).max()
    result = trace(HessianOperator(objective), 40, estimator=PerExample())
    low, high = result.interval(0.9995)
    assert low <= trace(HessianOperator(objective), 10**4).estimate <= high


def test_a_loss_without_a_second_derivative_says_so():
    x = normal(5, 3)
    objective = Objective(nn.Linear(3, 3).double(), F.multi_margin_loss, [(x, classes(5, 3))])
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match="no second derivative"):
            trace(HessianOperator(objective), 11, estimator=estimator)


def test_curvature_in_many_outputs_is_held_for_as_many_examples_as_the_budget_allows(monkeypatch):
    torch.manual_seed(0)
    objective = Objective(nn.Linear(3, 20).double(), F.cross_entropy, [(normal(30, 3), classes(30, 20))])
    wanted = diagonal(GGNOperator(objective), 40, estimator=ExactGaussNewton()).estimates
    seen, honest = [], torch.linalg.eigh
    monkeypatch.setattr(squares, "BUDGET", 7 * squares.BYTES * 20**2)
    monkeypatch.setattr(torch.linalg, "eigh", lambda S: seen.append(len(S)) or honest(S))
    found = diagonal(GGNOperator(objective), 40, estimator=ExactGaussNewton()).estimates
    assert max(seen) == 7
    assert abs(found - wanted).max() < 1e-14


def test_one_example_at_a_time_there_is_nothing_to_tell_apart():
    forward, shapes = REFUSED["a scale that is broadcast over as many tokens as examples"]
    truth = trace(HessianOperator(objective_of(forward, **shapes)), 10**4).estimate
    apart = HessianOperator(objective_of(forward, chunk_size=1, **shapes))
    with pytest.raises(ValueError, match=r"fails where layers are taken example by example|on other examples"):
        trace(HessianOperator(objective_of(forward, chunk_size=4, **shapes)), 40, estimator=PerExample())
    low, high = trace(apart, 40, estimator=PerExample()).interval(0.9995)
    assert low <= truth <= high
