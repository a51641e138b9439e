"""Relative flatness, against its definition over a dense Hessian."""

from __future__ import annotations

import glob
import itertools

import numpy as np
import pytest
import torch
from problems import N, Problem, classes, dense_hessian, normal, problem
from torch import nn
from torch.nn import functional

from landscape import HessianOperator, Hutchinson, RelativeFlatness, relative_flatness, trace
from landscape.relative import _Weighed


def by_definition(given, name):
    """Σ ⟨w_s, w_s'⟩ tr H_{s,s'}, block by block."""
    W = dict(given.model.named_parameters())[name].detach()
    W = W.reshape(len(W), -1)
    rows, columns = W.shape
    H = dense_hessian(given, glob.escape(name)).reshape(rows, columns, rows, columns)
    return sum((W[s] @ W[t] * H[s, :, t, :].trace()).item() for s, t in itertools.product(range(rows), range(rows)))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("tanh_mlp", ["0.weight", "2.weight"]),
        ("conv_batch_norm", ["0.weight", "4.weight"]),
        ("frozen", ["2.weight"]),
        ("tied", ["first.weight"]),
    ],
)
def test_with_as_many_products_as_weights_it_is_the_definition(name, layers):
    given = problem(name)
    result = relative_flatness(HessianOperator(given.objective()), num_probes=200)
    assert result.layers.tolist() == layers
    expected = [by_definition(given, layer) for layer in layers]
    assert np.allclose(result.values, expected, rtol=1e-8, atol=1e-12)
    assert result.value == pytest.approx(sum(expected), rel=1e-8)
    assert result.stopped.tolist() == ["exact"] * len(layers)
    assert result.stderr < 1e-12


def test_with_fewer_it_lies_within_its_standard_errors():
    given = problem("tanh_mlp")
    hessian = HessianOperator(given.objective())
    expected = by_definition(given, "0.weight"), by_definition(given, "2.weight")
    apart = []
    for seed in range(12):
        result = relative_flatness(hessian, num_probes=6, estimator=Hutchinson(), seed=seed)
        apart.append((result.values - expected) / result.stderrs)
        assert result.num_products.tolist() == [6, 6]
        assert result.stderr == pytest.approx(np.hypot(*result.stderrs), rel=1e-12)
    assert 0.5 < np.std(apart) < 2.2  # Student's t of 5 degrees of freedom: 1.3
    assert abs(np.mean(apart)) < 1.0


def test_each_layer_has_its_own_probes(monkeypatch):
    seeds = []

    def recorded(*args, seed, **others):
        seeds.append(seed)
        return trace(*args, seed=seed, **others)

    monkeypatch.setattr("landscape.relative.trace", recorded)
    hessian = HessianOperator(problem("tanh_mlp").objective())
    for seed in (0, 1):
        relative_flatness(hessian, num_probes=2, seed=seed)
    assert len(set(seeds)) == 4


def test_one_layer_can_be_asked_for():
    given = problem("tanh_mlp")
    result = relative_flatness(HessianOperator(given.objective()), num_probes=200, layers="2.*")
    assert result.layers.tolist() == ["2.weight"]
    assert result.value == pytest.approx(by_definition(given, "2.weight"), rel=1e-9)
    assert len(result.lines()) == 1


class Bracketed(nn.Module):
    """A layer whose name, as a pattern, is that of another one; and a matrix without an entry."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(3, 4), "[a]": nn.Linear(4, 3)})
        self.none = nn.Parameter(torch.empty(3, 0))

    def forward(self, x):
        return self.layers["[a]"](torch.tanh(self.layers["a"](x))) + self.none.sum()


def test_a_layer_is_found_by_its_very_name_and_a_matrix_without_entries_is_none():
    torch.manual_seed(0)
    given = Problem(Bracketed().double(), normal(N, 3), classes(N, 3), functional.cross_entropy)
    result = relative_flatness(HessianOperator(given.objective()), num_probes=200)
    assert result.layers.tolist() == ["layers.a.weight", "layers.[a].weight"]
    assert np.allclose(result.values, [by_definition(given, name) for name in result.layers], rtol=1e-8)


def test_the_matrix_whose_trace_is_taken_is_an_operator_of_parts_of_the_data_and_of_other_weights_too():
    objective = problem("tanh_mlp").objective(parameters="2.weight")
    part = objective.part(objective.batches[:1])
    other = objective.at(2 * objective.weights)
    eye = torch.eye(objective.space.dim).double()

    def dense(objective):
        """(R ⊗ I) H (R ⊗ I), with R = (W W')^½ from its singular values."""
        left, lengths, _ = torch.linalg.svd(objective.weights.reshape(3, 4), full_matrices=False)
        weights = torch.kron(left * lengths @ left.T, torch.eye(4).double())
        return weights @ HessianOperator(objective).apply(eye) @ weights

    weighed = _Weighed(HessianOperator(objective), objective.weights.reshape(3, 4))
    assert torch.allclose(weighed.apply(eye), dense(objective), rtol=1e-10, atol=1e-12)
    assert torch.allclose(weighed.over(part).apply(eye), dense(part), rtol=1e-10, atol=1e-12)
    assert torch.allclose(weighed._with(other).apply(eye), dense(other), rtol=1e-10, atol=1e-12)
    assert weighed.over(part).objective is part


def test_it_is_taken_at_the_weights_of_the_operator():
    objective = problem("tanh_mlp").objective()
    w = 1.5 * objective.weights
    there = relative_flatness(HessianOperator(objective, weights=w), num_probes=200)
    moved = relative_flatness(HessianOperator(objective.at(w)), num_probes=200)
    assert np.allclose(there.values, moved.values, rtol=1e-10)


def test_it_is_kept_with_its_settings(tmp_path):
    result = relative_flatness(HessianOperator(problem("tanh_mlp").objective()), num_probes=4, seed=3)
    assert RelativeFlatness.load(result.save(tmp_path / "a.npz")) == result
    assert result.manifest["measurement"] == {
        "name": "relative_flatness",
        "estimator": "KrylovAware",
        "num_probes": 4,
        "seed": 3,
        "layers": ["0.weight", "2.weight"],
    }
    assert len(result.lines()) == 3
    assert result.summary()["layers"].keys() == {"0.weight", "2.weight"}
    assert len(result.to_frame()) == 2


def test_what_makes_no_sense_is_refused():
    objective = problem("tanh_mlp").objective()
    with pytest.raises(TypeError, match="operator must be a curvature operator"):
        relative_flatness(objective)
    with pytest.raises(ValueError, match=r"layers matches no matrix of weights: 'x\*'; there are 0\.weight, 2\.weight"):
        relative_flatness(HessianOperator(objective), layers="x*")
