"""Models that have no second derivative as they are: by other kernels, or by differences, and it is said."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, normal, ragged
from torch import nn
from undifferentiable import Compiled

from landscape import CentralDifferences, HessianOperator, KeptGraphs, Objective, trace


def relative(a, b):
    return float((a - b).norm() / b.norm())


class Fused(nn.Module):
    def __init__(self, square):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.square = square

    def forward(self, x):
        return self.square(self.layer(x))


def test_a_model_without_second_derivatives_is_measured_by_differences_and_it_is_said():
    torch.manual_seed(0)
    fused = Fused(Compiled.apply).double()
    plain = Fused(torch.square).double()
    plain.load_state_dict(fused.state_dict())
    data = ragged(normal(N, 3), normal(N, 3, seed=1))
    hessian = HessianOperator(Objective(fused, F.mse_loss, data))
    exact = HessianOperator(Objective(plain, F.mse_loss, data)).apply(torch.eye(12).double())
    assert 1e-13 < relative(hessian.apply(torch.eye(12).double()), exact) < 1e-6
    assert hessian.manifest()["operator"]["products"] == "differences"
    operators = hessian, HessianOperator(Objective(plain, F.mse_loss, data))
    remarks = [trace(operator, 12).lines()[0].remark for operator in operators]
    assert remarks[1] == "standard error; Coordinates, 12 products, exact"
    assert remarks[0] == remarks[1] + " but for what differences in place of second derivatives are off"
    with pytest.raises(ValueError, match=r"no second derivative.*products=CentralDifferences\(\)"):
        HessianOperator(Objective(fused, F.mse_loss, data, products=KeptGraphs())).apply(normal(12))


def test_compiled_models_and_recurrent_layers_have_second_derivatives():
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(2, 2, batch_first=True), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    x, y = normal(N, 3, 2), torch.arange(N) % 2
    hessian = HessianOperator(Objective(Recurrent().double(), F.cross_entropy, ragged(x, y)))
    image = hessian.apply(torch.eye(hessian.dim).double())
    assert hessian.is_exact
    assert torch.allclose(image, image.T, atol=1e-12)
    quotient = HessianOperator(
        Objective(
            hessian.objective.model.requires_grad_(True), F.cross_entropy, ragged(x, y), products=CentralDifferences()
        )
    )
    assert relative(quotient.apply(torch.eye(hessian.dim).double()), image) < 1e-6


def test_the_row_of_a_padding_that_the_loss_depends_on_is_named_and_one_that_is_masked_is_no_defect():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Tanh(), nn.Linear(3, 2)).double()
    tokens = torch.tensor([0, 1, 2, 3, 0, 4])
    for ignored, words in ((-100, "the row of an embedding's padding_idx, which gets no gradient"), (0, "")):
        data = [(tokens, torch.where(tokens == ignored, ignored, 1))]
        hessian = HessianOperator(Objective(model, nn.CrossEntropyLoss(ignore_index=ignored), data))
        if words:
            with pytest.raises(ValueError, match=words):
                hessian.apply(hessian.weights)
        else:
            assert hessian.apply(hessian.weights).any()
