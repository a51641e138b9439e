"""Certificates pass for right answers, and fail for each way in which one can be wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from problems import ZOO, classes, normal, problem, quadratic, ragged, symmetric
from spectra import SPECTRA, operator_of
from torch import nn
from torch.nn import functional

from landscape import (
    CentralDifferences,
    Certificate,
    EmpiricalFisherOperator,
    GGNOperator,
    HessianOperator,
    Objective,
    Result,
    certify,
    spectral_density,
    top_eigenvalues,
    trace,
)

PAIRS = (
    "residual ‖Av − λv‖ / |λ|",
    "residual above the reported one",
    "vectors orthonormal",
    "same question from another start",
)
SHARED = ("symmetry of products", "difference quotients, random direction", "same product and loss twice")


def verdicts(certificate):
    return {check.name: check.verdict for check in certificate.checks}


def failed(certificate):
    assert not certificate.passed
    return {check.name for check in certificate.failures}


def changed(result, **fields):
    return dataclasses.replace(result, **fields)


class Altered(HessianOperator):
    """The Hessian of an objective with other products."""

    def __init__(self, objective, alter):
        super().__init__(objective)
        self.alter = alter

    def apply(self, V):
        return self.alter(super().apply(V), V)

    def manifest(self):
        return super().manifest() | {"operator": {"name": "HessianOperator"}}


@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "multiple"])
def test_right_eigenpairs_and_traces_of_known_spectra_pass(name):
    operator = operator_of(SPECTRA[name])
    for which in ("LA", "SA", "LM"):
        certificate = certify(top_eigenvalues(operator, 3, which=which), operator)
        assert certificate.passed, certificate.failures
        assert all(verdicts(certificate)[check] == "passed" for check in (*PAIRS, *SHARED))
    assert certify(trace(operator, 10), operator).passed


def rest_of(objective):
    """H − G and a multiple of the Fisher matrix."""
    return HessianOperator(objective) - GGNOperator(objective) + 0.5 * EmpiricalFisherOperator(objective)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator, rest_of])
@pytest.mark.parametrize("name", ZOO)
def test_right_answers_of_networks_pass_and_nothing_that_can_be_judged_is_left_open(name, kind):
    operator = kind(problem(name).objective())
    for result in (top_eigenvalues(operator, 2), trace(operator, 8)):
        certificate = certify(result, operator)
        assert certificate.passed, certificate.failures
        left = {check for check, verdict in verdicts(certificate).items() if verdict == "not judged"}
        assert left <= {"PyHessian", "PyHessian, in standard errors"}


def test_products_by_differences_are_certified_with_the_accuracy_that_they_have():
    given = problem("tanh_mlp")
    objective = Objective(given.model, given.loss, ragged(given.x, given.y), products=CentralDifferences())
    operator = HessianOperator(objective)
    certificate = certify(trace(operator, 6), operator)
    assert certificate.passed, certificate.failures
    (check,) = [check for check in certificate.checks if check.name == "symmetry of products"]
    assert "products: central differences of first derivatives" in check.remark
    fresh = HessianOperator(objective.part(objective.batches))
    assert certify(trace(operator, 6), fresh).passed  # though it does not know yet how it will multiply


def test_the_values_are_those_of_the_dense_matrix():
    A = symmetric(torch.as_tensor(SPECTRA["indefinite"]))
    operator = HessianOperator(quadratic(A))
    result = top_eigenvalues(operator, 3)
    by_name = {check.name: check.value for check in certify(result, operator).checks}
    V = result.eigenvectors
    residuals = np.linalg.norm(A.numpy() @ V - V * result.eigenvalues, axis=0)
    assert by_name[PAIRS[0]] == pytest.approx((residuals / np.abs(result.eigenvalues)).max(), rel=1e-9)
    assert by_name[PAIRS[2]] == pytest.approx(np.abs(V.T @ V - np.eye(3)).max(), rel=1e-12)


def test_tampered_eigenvalues_fail():
    operator = operator_of(SPECTRA["spread"])
    result = top_eigenvalues(operator, 3)
    for factor in (1.01, 0.99):
        wrong = changed(result, eigenvalues=result.eigenvalues * np.array([1, factor, 1]))
        assert failed(certify(wrong, operator)) >= {PAIRS[0], PAIRS[1]}


def test_residuals_that_are_claimed_too_small_fail():
    operator = operator_of(SPECTRA["spread"])
    result = top_eigenvalues(operator, 2, tol=1e-2)
    assert failed(certify(changed(result, residuals=0 * result.residuals), operator)) == {PAIRS[1]}


def test_pairs_that_are_eigenpairs_but_not_the_first_ones_fail():
    A = symmetric(torch.as_tensor(SPECTRA["spread"]))
    operator = HessianOperator(quadratic(A))
    values, vectors = np.linalg.eigh(A.numpy())
    result = top_eigenvalues(operator, 2)
    missed = changed(
        result, eigenvalues=values[[-1, -3]], eigenvectors=vectors[:, [-1, -3]], residuals=np.full(2, 1e-12)
    )
    assert PAIRS[3] in failed(certify(missed, operator))


def test_vectors_that_are_not_orthonormal_fail():
    operator = operator_of(SPECTRA["multiple"])
    result = top_eigenvalues(operator, 2)  # both of the eigenvalue 3, so that mixtures are eigenvectors, too
    first, second = result.eigenvectors.T
    mixed = np.stack([first, (first + second) / np.sqrt(2)], axis=1)
    bounds = {"residuals": result.residuals + 1e-3}
    assert failed(certify(changed(result, eigenvectors=mixed, **bounds), operator)) == {PAIRS[2]}
    long = changed(result, eigenvectors=1.0001 * result.eigenvectors, **bounds)
    assert failed(certify(long, operator)) == {PAIRS[2]}
    zero = changed(result, eigenvectors=0 * result.eigenvectors, **bounds)
    assert PAIRS[2] in failed(certify(zero, operator))


def test_pairs_that_did_not_converge_fail_and_are_named():
    operator = operator_of(SPECTRA["clustered"])
    result = top_eigenvalues(operator, 3, tol=1e-12, max_products=6)
    assert not result.converged.all()
    certificate = certify(result, operator)
    assert PAIRS[0] in failed(certificate)
    (check,) = [check for check in certificate.failures if check.name == PAIRS[0]]
    assert "reported as not converged" in check.sentence


def test_products_that_are_not_symmetric_fail():
    objective = problem("tanh_mlp").objective()
    lower = 0.01 * torch.tril(normal(objective.space.dim, objective.space.dim), -1)
    operator = Altered(objective, lambda product, V: product + lower @ V)
    result = top_eigenvalues(operator, 1, tol=0.5)
    assert "symmetry of products" in failed(certify(result, operator))
    assert "symmetry of products" in failed(certify(trace(operator, 6), operator))


@pytest.mark.parametrize("alter", [lambda product, V: 1.01 * product, lambda product, V: product + 0.01 * V])
def test_products_that_are_symmetric_and_wrong_fail_against_difference_quotients_alone(alter):
    operator = Altered(problem("tanh_mlp").objective(), alter)
    names = {"difference quotients, random direction", "difference quotients, first eigenvector"}
    assert failed(certify(top_eigenvalues(operator, 1), operator)) == names
    assert failed(certify(trace(operator, 6), operator)) == {"difference quotients, random direction"}


def test_products_that_are_not_the_same_twice_fail():
    generator = torch.Generator().manual_seed(0)

    def noisy(product, V):
        return product + 1e-9 * torch.randn(product.shape, generator=generator, dtype=product.dtype)

    operator = Altered(problem("tanh_mlp").objective(), noisy)
    assert failed(certify(top_eigenvalues(operator, 1), operator)) == {"same product and loss twice"}
    assert failed(certify(trace(operator, 6), operator)) == {"same product and loss twice"}


def test_a_loss_that_is_not_the_same_twice_fails(monkeypatch):
    operator = HessianOperator(problem("tanh_mlp").objective())
    result = top_eigenvalues(operator, 1)
    drawn = iter([1.0, 1.0 + 1e-9] * 10)
    monkeypatch.setattr(operator.objective, "loss", lambda w: torch.tensor(next(drawn), dtype=torch.float64))
    assert failed(certify(result, operator)) == {"same product and loss twice"}


def relu_objective(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3)).to(dtype)
    return Objective(model, functional.cross_entropy, ragged(normal(13, 3, seed=7).to(dtype), classes(13, 3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_network_with_kinks_passes_and_its_wrong_products_fail(dtype):
    objective = relu_objective(dtype)
    right = HessianOperator(objective)
    certificate = certify(top_eigenvalues(right, 2), right)
    assert certificate.passed, certificate.failures
    assert verdicts(certificate)["difference quotients, random direction"] == "passed"
    wrong = Altered(objective, lambda product, V: 1.01 * product)
    assert "difference quotients, random direction" in failed(certify(top_eigenvalues(wrong, 2), wrong))


def test_a_kink_at_the_weights_is_told_apart_from_a_wrong_product():
    """|w₁| + w₁² + w₂² has a kink at w₁ = 0, where the product 2 v is right and no difference quotient is."""

    class Kinked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.0, 1.0]).double())

        def forward(self, x):
            return x * (self.w[0].abs() + self.w.square().sum())

    x = torch.ones(5, dtype=torch.float64)
    operator = HessianOperator(Objective(Kinked(), lambda outputs, _: outputs.mean(), [(x[:3], x[:3]), (x[3:], x[3:])]))
    result = trace(operator, 4)
    assert result.estimate == 4
    certificate = certify(result, operator)
    assert certificate.passed
    (check,) = [check for check in certificate.checks if check.name == "difference quotients, random direction"]
    assert check.verdict == "not judged"
    assert check.value > 0.9  # relative to the larger of the two, which is the quotient
    assert "kinks or rounding, which tell nothing" in check.remark


def test_a_wrong_trace_fails_and_so_does_a_standard_error_that_is_too_small():
    operator = operator_of(SPECTRA["indefinite"])
    result = trace(operator, 30)
    shifted = changed(result, estimate=result.estimate + 10 * result.stderr)
    assert failed(certify(shifted, operator)) == {"same question with other probes, in standard errors"}
    boasting = changed(result, stderr=result.stderr / 50)
    assert "standard error, other probes' over this" in failed(certify(boasting, operator))


def test_a_trace_without_any_spread_passes():
    operator = HessianOperator(quadratic(torch.diag(torch.arange(1.0, 6)).double()))
    result = trace(operator, 5)  # exact
    assert result.stderr < 1e-13
    assert certify(result, operator).passed


def test_another_checkpoint_other_data_or_another_operator_is_refused():
    given = problem("tanh_mlp")
    operator = HessianOperator(given.objective())
    for result in (top_eigenvalues(operator, 1), trace(operator, 4)):
        elsewhere = HessianOperator(operator.objective, weights=operator.weights + 1e-9)
        with pytest.raises(ValueError, match=r"not of this operator; they differ in subject.*weights: .*measure again"):
            certify(result, elsewhere)
        other = Objective(given.model, given.loss, ragged(given.x + 1, given.y))
        with pytest.raises(ValueError, match=r"they differ in .*objective\.data"):
            certify(result, HessianOperator(other))
        with pytest.raises(ValueError, match=r"they differ in operator\.name: 'HessianOperator' or 'GGNOperator'"):
            certify(result, GGNOperator(operator.objective))
        with pytest.raises(ValueError, match="has no record of the weights and data"):
            certify(changed(result, manifest={}), operator)


def test_results_of_another_kind_and_what_is_no_operator_are_refused():
    operator = operator_of(SPECTRA["spread"])
    density = spectral_density(operator, 4, num_probes=1)
    with pytest.raises(TypeError, match="a certificate is of Eigenpairs or of a TraceEstimate; got SpectralDensity"):
        certify(density, operator)
    with pytest.raises(TypeError, match="operator must be a curvature operator"):
        certify(trace(operator, 4), operator.objective)


def test_a_certificate_is_a_result_that_can_be_saved(tmp_path):
    operator = operator_of(SPECTRA["spread"])
    certificate = certify(top_eigenvalues(operator, 2), operator)
    loaded = Result.load(certificate.save(tmp_path / "c.npz"))
    assert isinstance(loaded, Certificate)
    assert loaded == certificate
    assert loaded.passed
    assert loaded.manifest["measurement"]["of"]["k"] == 2
    summary = loaded.summary()
    assert summary["passed"] is True
    assert [entry["name"] for entry in summary["checks"]] == certificate.names.tolist()
    assert len(loaded.to_frame()) == len(loaded.lines()) == len(certificate.names)
    assert all(check.seconds >= 0 for check in loaded.checks)


def test_progress_is_reported_and_nothing_of_the_global_random_state_is_touched():
    operator = operator_of(SPECTRA["spread"])
    result, seen, state = top_eigenvalues(operator, 1), [], torch.get_rng_state()
    certificate = certify(result, operator, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, len(certificate.names)) for i in range(1, len(certificate.names) + 1)]
    assert torch.equal(state, torch.get_rng_state())
