"""What the graphs of each kind of matrix take, since they are kept within a budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import EmpiricalFisherOperator, GGNOperator, HessianOperator, Objective
from landscape.memory import graph_measured


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
def test_the_graphs_of_every_kind_of_matrix_are_measured_for_themselves(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    data = [(torch.linspace(-1, 1, 390).reshape(65, 6).double(), torch.arange(65) % 3)]
    objective = Objective(model, functional.cross_entropy, data)
    term, *_ = objective.work.terms
    with graph_measured(without=[objective.weights, *term.batch]) as graph:
        products = kind.kind.at(term, objective.weights)
    assert callable(products)
    exact = graph.num_bytes + objective.weights.nbytes  # the gradient is kept, too
    assert objective.work.graph_for(kind.kind).of(term) == pytest.approx(exact, rel=0.03)
