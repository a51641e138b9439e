"""PyHessian's opinion in a certificate: where it counts, where it is told only, and where it is not asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from problems import problem
from spectra import SPECTRA, operator_of

from landscape import GGNOperator, HessianOperator, certify, pyhessian_trace, top_eigenvalues, trace


def verdicts(certificate):
    return {check.name: check.verdict for check in certificate.checks}


def test_pyhessian_is_reported_with_its_time_and_agrees():
    operator = HessianOperator(problem("tanh_mlp_mse").objective())
    for result in (top_eigenvalues(operator, 1), trace(operator, 30)):
        (check,) = [check for check in certify(result, operator).checks if check.name.startswith("PyHessian")]
        assert " products in " in check.remark
        assert check.verdict == ("passed" if "λ₁" in check.remark else "not judged")
        assert np.isfinite(check.value)


def test_what_pyhessian_finds_further_out_fails_and_what_it_misses_does_not(monkeypatch):
    operator = operator_of(SPECTRA["spread"])
    result = top_eigenvalues(operator, 1)
    theirs = dataclasses.replace(result, manifest=operator.manifest() | {"machine": {"seconds": 1.0}})
    for factor, verdict in ((1.01, "FAILED"), (1.0, "passed"), (0.9, "not judged")):
        said = dataclasses.replace(theirs, eigenvalues=factor * result.eigenvalues)
        monkeypatch.setattr("landscape.certified_pairs.pyhessian_eigenvalues", lambda *a, said=said, **k: said)
        assert verdicts(certify(result, operator))["PyHessian"] == verdict


def test_pairs_that_pyhessian_repeats_do_not_count(monkeypatch):
    operator = operator_of(SPECTRA["spread"])
    result = top_eigenvalues(operator, 3)
    places = [0, 0, 1]  # the first one twice: further out than the second
    theirs = dataclasses.replace(
        result,
        eigenvalues=result.eigenvalues[places],
        eigenvectors=result.eigenvectors[:, places],
        residuals=result.residuals[places],
        manifest=operator.manifest() | {"machine": {"seconds": 1.0}},
    )
    monkeypatch.setattr("landscape.certified_pairs.pyhessian_eigenvalues", lambda *a, **k: theirs)
    (check,) = [check for check in certify(result, operator).checks if check.name == "PyHessian"]
    assert check.verdict == "passed"
    assert "1 of its pairs repeat others" in check.remark


def test_pyhessian_is_not_compared_where_the_question_is_another():
    def remark(operator, **asked):
        checks = certify(top_eigenvalues(operator, **asked), operator).checks
        (check,) = [check for check in checks if check.name == "PyHessian"]
        assert check.verdict == "not judged"
        return check.remark

    objective = problem("tanh_mlp").objective()
    assert "it knows the Hessian only, and this is a GGNOperator" in remark(GGNOperator(objective), k=1)
    elsewhere = HessianOperator(objective, weights=objective.weights + 0.1)
    assert "other weights than the objective's own" in remark(elsewhere, k=1)
    assert "the other end of the spectrum only" in remark(operator_of(SPECTRA["indefinite"]), k=1)
    only_one = operator_of(np.array([-5.0, 3.0, 1.0, 0.5]))
    checks = certify(top_eigenvalues(only_one, 2, which="LA"), only_one).checks
    (check,) = [check for check in checks if check.name == "PyHessian"]
    assert check.verdict == "passed"
    assert "1 of its pairs are at the other end" in check.remark


def test_pyhessian_that_breaks_down_is_no_verdict(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory\nmore")

    operator = operator_of(SPECTRA["spread"])
    monkeypatch.setattr("landscape.certified_pairs.pyhessian_eigenvalues", broken)
    monkeypatch.setattr("landscape.certified_trace.pyhessian_trace", broken)
    for result in (top_eigenvalues(operator, 1), trace(operator, 4)):
        certificate = certify(result, operator)
        assert certificate.passed
        assert any(check.remark == "it failed: out of memory" for check in certificate.checks)


def test_pyhessians_trace_is_its_mean_over_its_probes():
    objective = problem("tanh_mlp_mse").objective()
    result = pyhessian_trace(objective, tol=1e-9, max_iterations=40)
    assert len(result.samples) == 40
    assert result.estimate == pytest.approx(result.samples.mean())
    exact = torch.linalg.eigvalsh(HessianOperator(objective).apply(torch.eye(objective.space.dim).double())).sum()
    assert abs(result.estimate - exact.item()) < 5 * result.stderr
    with pytest.raises(ValueError, match="max_iterations must be at least 2"):
        pyhessian_trace(objective, max_iterations=1)


def test_the_repetition_has_another_start_whatever_the_seed(monkeypatch):
    operator, seeds = operator_of(SPECTRA["spread"]), []
    result = top_eigenvalues(operator, 1, seed=3)

    def again(*args, seed, **asked):
        seeds.append(seed)
        return top_eigenvalues(*args, seed=seed, **asked)

    monkeypatch.setattr("landscape.certified_pairs.top_eigenvalues", again)
    for seed in (0, -1, 5):
        certify(result, operator, seed=seed)
    assert len({3, *seeds}) == 4
