"""The empirical Fisher matrix against the gradients of single examples."""

from __future__ import annotations

import pytest
import torch
from problems import N, normal, problem, ragged
from torch import nn

from landscape import CentralDifferences, EmpiricalFisherOperator, KeptGraphs, Objective
from landscape.curvatures import FISHER


def objective_of(name, way):
    given = problem(name)
    return Objective(given.model, given.loss, ragged(given.x, given.y), products=way)


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_batch_norm", "attention", "tanh_mlp_mse"])
@pytest.mark.parametrize("way", [KeptGraphs(), CentralDifferences()], ids=repr)
def test_the_fisher_matrix_is_the_mean_of_outer_products_of_example_gradients(name, way):
    objective = objective_of(name, way)
    gradients = torch.stack([shard.gradient(objective.weights) for shard in objective.shards(1)])
    image = EmpiricalFisherOperator(objective).apply(torch.eye(objective.space.dim).double())
    assert torch.allclose(
        image, gradients.T @ gradients / N, rtol=1e-6, atol=1e-8 if "Differences" in repr(way) else 1e-12
    )


def test_the_fisher_matrix_weighs_examples_by_what_they_are_divided_by():
    model = nn.Linear(3, 4).double()
    weight = torch.tensor([0.5, 1.0, 2.0, 0.0]).double()
    loss = nn.CrossEntropyLoss(weight=weight)
    x, y = normal(N, 3), torch.arange(N) % 4
    objective = Objective(model, loss, ragged(x, y))
    image = EmpiricalFisherOperator(objective).apply(torch.eye(16).double())
    plain = nn.CrossEntropyLoss()
    rows = []
    for i in range(N):
        (slope,) = torch.autograd.grad(plain(model(x[i : i + 1]), y[i : i + 1]), [model.weight], retain_graph=True)
        (bias,) = torch.autograd.grad(plain(model(x[i : i + 1]), y[i : i + 1]), [model.bias])
        rows.append(torch.cat([slope.flatten(), bias]))
    gradients, d = torch.stack(rows), weight[y]
    assert torch.allclose(image, (gradients * d[:, None]).T @ gradients / d.sum(), rtol=1e-10, atol=1e-12)


def test_a_loss_that_is_no_mean_over_examples_has_no_fisher_matrix():
    def variance(outputs, targets):
        return (outputs - targets).square().mean() + 0 * outputs.sum()

    given = problem("tanh_mlp_mse")
    objective = Objective(given.model, variance, ragged(given.x, given.y), denominator=lambda o, t: 3 * len(t))
    objective._definition.__dict__["loss"] = lambda o, t: (o - t).square().mean().sqrt() + 1
    with pytest.raises(ValueError, match="not the weighted mean of the losses of its examples"):
        FISHER.at(objective.work.terms[0], objective.weights)
