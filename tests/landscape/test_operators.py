from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import (
    ZOO,
    dense_ggn,
    dense_gradient,
    dense_hessian,
    linear_regression,
    normal,
    problem,
    quadratic,
    ragged,
    softmax_regression,
    symmetric,
)
from scipy.sparse.linalg import aslinearoperator, eigsh

from landscape import (
    CentralDifferences,
    CurvatureOperator,
    EmpiricalFisherOperator,
    ForwardOverReverse,
    GGNOperator,
    HessianOperator,
    Objective,
    RebuiltGraphs,
    ResidualOperator,
)


def close(a, b, atol=1e-12):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-10, atol=atol)


class OperatorContract:
    """What every curvature operator promises. A subclass says which operator, and what the dense matrix is."""

    def operator(self, objective, **options) -> CurvatureOperator:
        raise NotImplementedError

    def dense(self, given, pattern="*") -> torch.Tensor:
        raise NotImplementedError

    @pytest.mark.parametrize("name", ZOO)
    def test_it_is_the_dense_matrix(self, name):
        given = problem(name)
        operator = self.operator(given.objective())
        assert operator.shape == (operator.dim, operator.dim)
        assert close(operator.apply(torch.eye(operator.dim).double()), self.dense(given))

    @pytest.mark.parametrize("name", ZOO)
    def test_it_is_symmetric(self, name):
        operator = self.operator(problem(name).objective())
        u, v = normal(operator.dim, seed=1), normal(operator.dim, seed=2)
        assert close(u @ operator.apply(v), v @ operator.apply(u))

    @pytest.mark.parametrize("name", ZOO)
    def test_it_is_linear(self, name):
        operator = self.operator(problem(name).objective())
        u, v = normal(operator.dim, seed=1), normal(operator.dim, seed=2)
        assert close(operator.apply(2 * u - 3 * v), 2 * operator.apply(u) - 3 * operator.apply(v))

    def test_a_block_is_its_columns_and_keeps_its_shape(self):
        operator = self.operator(problem("tanh_mlp").objective())
        V = normal(operator.dim, 3)
        block = operator.apply(V)
        assert block.shape == V.shape
        for i in range(3):
            column = operator.apply(V[:, i])
            assert column.shape == (operator.dim,)
            assert close(block[:, i], column)
        assert operator.apply(V[:, :1]).shape == (operator.dim, 1)

    def test_scipy_multiplies_vectors_and_blocks_with_it_and_with_its_transpose(self):
        given = problem("tanh_mlp")
        operator, dense = self.operator(given.objective()), self.dense(given).numpy()
        x, X = normal(operator.dim).numpy(), normal(operator.dim, 2).numpy()
        for A in (operator, operator.T, operator.H):
            assert np.allclose(A @ x, dense @ x, rtol=1e-10, atol=1e-12)
            assert np.allclose(A @ X, dense @ X, rtol=1e-10, atol=1e-12)
            assert (A @ x[:, None]).shape == (operator.dim, 1)
        assert np.allclose((2 * operator + operator) @ x, 3 * dense @ x, rtol=1e-10, atol=1e-12)

    def test_scipy_finds_the_dense_eigenvalues(self):
        given = problem("tanh_mlp")
        operator = self.operator(given.objective())
        start = normal(operator.dim).numpy()
        found = eigsh(operator, k=4, which="LA", return_eigenvectors=False, v0=start)
        assert np.allclose(np.sort(found), torch.linalg.eigvalsh(self.dense(given))[-4:].numpy(), rtol=1e-8)

    @pytest.mark.parametrize("pattern", ["0.*", "2.weight", "*.bias"])
    def test_a_selection_of_weights_is_a_block_of_the_dense_matrix(self, pattern):
        given = problem("tanh_mlp")
        objective = given.objective(parameters=pattern)
        places = given.objective().space.unflatten(torch.arange(31))
        chosen = torch.cat([places[name].flatten() for name in objective.space.names])
        block = self.operator(objective).apply(torch.eye(objective.space.dim).double())
        assert close(block, self.dense(given)[chosen][:, chosen])

    def test_it_is_taken_at_the_weights_that_are_given(self):
        given = problem("tanh_mlp")
        objective = given.objective()
        w = objective.weights + 0.5
        moved = problem("tanh_mlp")
        torch.nn.utils.vector_to_parameters(w, moved.model.parameters())
        operator = self.operator(objective, weights=w)
        assert close(operator.apply(torch.eye(31).double()), self.dense(moved))
        here = self.operator(objective)
        assert (
            operator.manifest()["subject"]["weights"]
            == self.operator(moved.objective()).manifest()["subject"]["weights"]
        )
        assert operator.manifest()["subject"]["weights"] != here.manifest()["subject"]["weights"]
        assert operator.manifest()["objective"] == here.manifest()["objective"]
        assert operator.manifest()["operator"] == here.manifest()["operator"] == operator.settings()

    def test_arrays_that_are_frozen_or_in_another_layout_are_multiplied_without_a_warning(self):
        operator = self.operator(problem("tanh_mlp").objective())
        X = normal(operator.dim, 4).numpy()
        frozen = np.asfortranarray(X)
        frozen.flags.writeable = False
        always = torch.is_warn_always_enabled()
        torch.set_warn_always(True)
        try:
            product = operator @ frozen[:, ::2]
        finally:
            torch.set_warn_always(always)
        assert np.allclose(product, operator @ X[:, ::2].copy(), rtol=1e-12, atol=1e-14)

    def test_weights_of_another_shape_are_refused(self):
        with pytest.raises(ValueError, match=r"weights must have shape \(31,\); got \(30,\)"):
            self.operator(problem("tanh_mlp").objective(), weights=torch.zeros(30).double())

    def test_its_dtype_is_that_of_the_weights(self):
        given = problem("tanh_mlp")
        assert self.operator(given.objective()).dtype == np.float64
        single = type(given)(given.model.float(), given.x.float(), given.y)
        assert self.operator(single.objective()).dtype == np.float32


class TestHessianOperator(OperatorContract):
    def operator(self, objective, **options):
        return HessianOperator(objective, **options)

    def dense(self, given, pattern="*"):
        return dense_hessian(given, pattern)

    @pytest.mark.parametrize("build", [linear_regression, softmax_regression])
    def test_it_is_the_closed_form(self, build):
        objective, expected = build()
        assert close(self.operator(objective).apply(torch.eye(12).double()), expected)

    def test_it_may_be_indefinite(self):
        A = symmetric(torch.tensor([-2.0, -1.0, 0.0, 3.0]).double())
        assert close(HessianOperator(quadratic(A)).apply(torch.eye(4).double()), A)


class TestGGNOperator(OperatorContract):
    def operator(self, objective, **options):
        return GGNOperator(objective, **options)

    def dense(self, given, pattern="*"):
        return dense_ggn(given, pattern)

    @pytest.mark.parametrize("build", [linear_regression, softmax_regression])
    def test_it_is_the_hessian_where_the_model_is_linear(self, build):
        objective, expected = build()
        assert close(self.operator(objective).apply(torch.eye(12).double()), expected)

    @pytest.mark.parametrize("name", ZOO)
    def test_it_is_positive_semi_definite_and_the_hessian_here_is_not(self, name):
        objective = problem(name).objective()
        eye = torch.eye(objective.space.dim).double()
        assert torch.linalg.eigvalsh(GGNOperator(objective).apply(eye)).min() > -1e-12
        if name != "frozen":  # the trained part of that one is linear, so that the two agree
            assert torch.linalg.eigvalsh(HessianOperator(objective).apply(eye)).min() < -1e-6


class TestEmpiricalFisherOperator(OperatorContract):
    def operator(self, objective, **options):
        return EmpiricalFisherOperator(objective, **options)

    def dense(self, given, pattern="*"):
        rows = [
            dense_gradient(type(given)(given.model, x[None], y[None], given.loss))
            for x, y in zip(given.x, given.y, strict=True)
        ]
        gradients = torch.stack(rows)
        return gradients.T @ gradients / len(rows)


class TestDifference(OperatorContract):
    def operator(self, objective, **options):
        return HessianOperator(objective, **options) - GGNOperator(objective, **options)

    def dense(self, given, pattern="*"):
        return dense_hessian(given, pattern) - dense_ggn(given, pattern)


class TestResidualOperator(OperatorContract):
    def operator(self, objective, **options):
        return ResidualOperator(objective, **options)

    def dense(self, given, pattern="*"):
        return dense_hessian(given, pattern) - dense_ggn(given, pattern)

    @pytest.mark.parametrize("way", [RebuiltGraphs(), ForwardOverReverse(), CentralDifferences()], ids=repr)
    def test_every_way_gives_the_dense_matrix(self, way):
        given = problem("tanh_mlp")
        objective = Objective(given.model, given.loss, ragged(given.x, given.y), products=way)
        atol = 1e-7 if isinstance(way, CentralDifferences) else 1e-12
        assert close(self.operator(objective).apply(torch.eye(31).double()), self.dense(given), atol=atol)


class TestMultiple(OperatorContract):
    def operator(self, objective, **options):
        return -0.5 * HessianOperator(objective, **options)

    def dense(self, given, pattern="*"):
        return -0.5 * dense_hessian(given, pattern)


def test_an_operator_is_taken_over_to_a_part_of_the_data():
    objective = problem("tanh_mlp").objective()
    w = objective.weights + 0.5
    part = objective.part(objective.batches[:1])
    there = HessianOperator(objective, weights=w).over(part)
    assert close(there.apply(torch.eye(31).double()), HessianOperator(part, weights=w).apply(torch.eye(31).double()))
    residual = (HessianOperator(objective) - GGNOperator(objective)).over(part)
    expected = HessianOperator(part).apply(normal(31)) - GGNOperator(part).apply(normal(31))
    assert close(residual.apply(normal(31)), expected)


def test_operators_at_different_places_or_of_different_losses_cannot_be_added():
    objective = problem("tanh_mlp").objective()
    moved = HessianOperator(objective, weights=objective.weights + 1)
    other = HessianOperator(problem("tanh_mlp_mse").objective())
    for operator in (moved, other):
        with pytest.raises(ValueError, match="of the same objective at the same weights"):
            HessianOperator(objective) + operator


def test_scipy_shifts_and_sums_with_other_matrices():
    objective = problem("tanh_mlp").objective()
    H, x = HessianOperator(objective), normal(31).numpy()
    shifted = H + 0.5 * aslinearoperator(np.eye(31))
    assert np.allclose(shifted @ x, H @ x + 0.5 * x, rtol=1e-12)
    found = eigsh(shifted, k=1, which="LA", return_eigenvectors=False, v0=x)
    exact = torch.linalg.eigvalsh(dense_hessian(problem("tanh_mlp")))[-1].item()
    assert np.allclose(found, exact + 0.5, rtol=1e-8)
    assert np.allclose((H @ H) @ x, H @ (H @ x), rtol=1e-10)


def test_an_objective_of_some_weights_is_that_function_of_them():
    given = problem("tanh_mlp")
    whole, head = given.objective(), given.objective().select("2.*")
    direct = Objective(given.model, given.loss, list(whole.batches), parameters="2.*")
    assert close(head.weights, direct.weights)
    assert close(head.gradient(head.weights + 0.1), direct.gradient(direct.weights + 0.1))
    assert head.manifest()["subject"]["fixed"] == direct.manifest()["subject"]["fixed"]
    moved = whole.at(whole.weights + 1)
    assert close(moved.gradient(moved.weights), whole.gradient(whole.weights + 1))
    assert close(
        moved.select("2.*").gradient(head.weights),
        moved.gradient(torch.cat([whole.weights[:16] + 1, whole.weights[16:]]))[16:],
    )


def test_operators_can_be_added_in_scipy():
    objective = problem("tanh_mlp").objective()
    H, G = HessianOperator(objective), GGNOperator(objective)
    x = normal(31).numpy()
    residual = aslinearoperator(H) - aslinearoperator(G)
    assert np.allclose(residual @ x, H @ x - G @ x, rtol=1e-12, atol=1e-14)


def test_an_operator_without_a_product_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        CurvatureOperator(problem("tanh_mlp").objective())
