"""w'Fw, against Jacobians and identities of networks that are homogeneous in their weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from problems import N, classes, dense_ggn, linear_regression, normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import EmpiricalFisherOperator, FisherRaoNorm, GGNOperator, Objective, fisher_rao_norm


def relu_net(layers: int) -> nn.Module:
    torch.manual_seed(4)
    widths = [3, *([5] * (layers - 1)), 3]
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*parts[:-1]).double()


@pytest.mark.parametrize("size", [1, 4, N])
@pytest.mark.parametrize("name", ["tanh_mlp", "tanh_mlp_mse", "tied", "frozen"])
def test_it_is_the_quadratic_form_of_the_dense_matrix_at_any_shard_size(name, size):
    given = problem(name)
    objective = given.objective()
    w, G = objective.weights, dense_ggn(given)
    result = fisher_rao_norm(GGNOperator(objective), microbatch_size=size)
    assert result.value == pytest.approx((w @ G @ w).item(), rel=1e-9)
    assert result.shard_sizes.sum() == N
    assert math.isnan(result.stderr) == (size == N)


def test_the_standard_error_is_that_of_the_mean_over_examples():
    objective, _ = linear_regression()
    result = fisher_rao_norm(GGNOperator(objective), microbatch_size=1)
    outputs = torch.cat([x for x, _ in objective.batches]) @ objective.model.weight.T
    expected = 2 / 3 * outputs.detach().square().sum(dim=1).numpy()
    assert np.allclose(result.per_shard, expected, rtol=1e-9)
    assert result.stderr == pytest.approx(expected.std(ddof=1) / math.sqrt(N), rel=1e-9)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_of_a_relu_network_without_biases_it_is_the_square_of_its_depth_times_the_form_of_the_outputs(layers):
    model, x, y = relu_net(layers), normal(N, 3), classes(N, 3)
    objective = Objective(model, functional.cross_entropy, ragged(x, y))
    f = model(x).detach()
    p = f.softmax(dim=1)
    variance = (p * f.square()).sum(dim=1) - (p * f).sum(dim=1).square()  # f'(diag p − pp')f
    assert fisher_rao_norm(GGNOperator(objective), microbatch_size=4).value == pytest.approx(
        layers**2 * variance.mean().item(), rel=1e-9
    )
    slope = p - functional.one_hot(y, 3)
    expected = layers**2 * (slope * f).sum(dim=1).square().mean().item()
    assert fisher_rao_norm(EmpiricalFisherOperator(objective), microbatch_size=4).value == pytest.approx(
        expected, rel=1e-9
    )


def test_tokens_that_are_ignored_count_for_nothing():
    x, y = normal(N, 3), classes(N, 3)
    y[[0, 5, 8, 9, 10, 11]] = -100
    objective = Objective(relu_net(1), functional.cross_entropy, ragged(x, y))
    kept = Objective(relu_net(1), functional.cross_entropy, [(x[y >= 0], y[y >= 0])])
    ours = fisher_rao_norm(GGNOperator(objective), microbatch_size=4)
    assert ours.denominators.tolist() == [3, 3, 1]
    assert ours.value == pytest.approx(fisher_rao_norm(GGNOperator(kept), microbatch_size=7).value, rel=1e-9)


def test_it_is_taken_at_the_weights_of_the_operator():
    given = problem("tanh_mlp")
    objective = given.objective()
    w = objective.weights * 1.5
    there = fisher_rao_norm(GGNOperator(objective, weights=w), microbatch_size=5)
    moved = fisher_rao_norm(GGNOperator(objective.at(w)), microbatch_size=5)
    assert there.value == pytest.approx(moved.value, rel=1e-12)
    assert there.manifest["subject"]["weights"] == moved.manifest["subject"]["weights"]


def test_it_is_kept_with_its_operator(tmp_path):
    result = fisher_rao_norm(GGNOperator(problem("tanh_mlp").objective()), microbatch_size=5)
    assert FisherRaoNorm.load(result.save(tmp_path / "a.npz")) == result
    assert result.manifest["measurement"] == {"name": "fisher_rao_norm", "microbatch_size": 5}
    assert result.summary()["square"] == result.value
    assert len(result.to_frame()) == 3


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (GGNOperator, "GGNOperator"),
        (EmpiricalFisherOperator, "EmpiricalFisherOperator"),
        (lambda objective: 2 * GGNOperator(objective), "2.0 · (GGNOperator)"),
    ],
)
def test_it_says_which_matrix_it_was_taken_with(operator, name):
    result = fisher_rao_norm(operator(problem("tanh_mlp").objective()), microbatch_size=5)
    assert result.operator == result.manifest["operator"]["name"] == name
    assert result.lines()[0].remark.endswith(f"w'Fw with the {name}")


def test_what_is_no_operator_is_refused():
    with pytest.raises(TypeError, match="operator must be a curvature operator"):
        fisher_rao_norm(problem("tanh_mlp").objective())
    with pytest.raises(ValueError, match="a shard must have 1 to 13 examples"):
        fisher_rao_norm(GGNOperator(problem("tanh_mlp").objective()), microbatch_size=14)
