"""A budget never stands in the way of a full answer, and never poisons what is remembered."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from analyses import curvature
from analyses.answer import is_cut_short
from analyses.budget import Budget
from analyses.subject import Subject
from landscape.answers import Certificate, TraceEstimate
from msam import Run


@pytest.fixture
def run(sweep, tmp_path) -> Run:
    copied = tmp_path / "run"
    shutil.copytree(sweep.run_path(2), copied, ignore=shutil.ignore_patterns("results"))
    return Run.open(copied)


@pytest.fixture
def asked(monkeypatch):
    """Calls of the trace; it takes six seconds, and is cut short where it may not."""
    calls = []

    def trace(operator, *, num_probes, seed, estimator, progress, max_seconds=None):
        assert repr(estimator) == "KrylovAware()"
        calls.append(max_seconds)
        full = max_seconds is None or max_seconds >= 6
        samples = np.arange(float(num_probes if full else 2))
        return TraceEstimate(
            estimate=1.0, stderr=0.1, samples=samples, stopped="" if full else "time", manifest=operator.manifest()
        )

    monkeypatch.setattr(curvature, "trace_of", trace)
    return calls


def subject(run, protocol, seconds=None):
    budget = None if seconds is None else Budget(seconds, {"trace": 1.0}, clock=lambda: 0.0)
    return Subject(run, protocol, budget=budget)


def test_an_answer_that_was_cut_short_serves_the_same_budget_and_no_other_call(run, protocol, asked):
    short = curvature.trace(subject(run, protocol, 2.0))
    assert short.is_cut_short
    assert curvature.trace(subject(run, protocol, 2.0)) == short  # read back
    assert asked == [2.0]
    longer = curvature.trace(subject(run, protocol, 3.0))
    assert longer.is_cut_short
    assert longer.path != short.path
    full = curvature.trace(subject(run, protocol))
    assert not full.is_cut_short
    assert full.path not in (short.path, longer.path)
    assert asked == [2.0, 3.0, None]


def test_a_full_answer_within_a_budget_serves_every_later_call(run, protocol, asked):
    full = curvature.trace(subject(run, protocol, 60.0))
    assert not full.is_cut_short
    for seconds in (None, 60.0, 1.0):
        assert curvature.trace(subject(run, protocol, seconds)) == full
    assert asked == [60.0]


def test_the_full_answer_is_what_a_budget_gets_where_both_are_there(run, protocol, asked):
    curvature.trace(subject(run, protocol, 2.0))
    full = curvature.trace(subject(run, protocol))
    assert curvature.trace(subject(run, protocol, 2.0)) == full


def test_what_has_been_answered_leaves_its_share_to_the_others(run, protocol, asked):
    first = Subject(run, protocol)
    curvature.eigenvalues(first)
    budget = Budget(8.0, {"eigenvalues": 1.0, "trace": 1.0}, clock=lambda: 0.0)
    second = Subject(run, protocol, budget=budget)
    curvature.eigenvalues(second)
    curvature.trace(second)
    assert asked == [8.0]


def test_a_density_beside_eigenvalues_that_were_cut_short_is_no_full_answer(run, protocol, monkeypatch):
    search = curvature.top_eigenvalues

    def hurried(operator, **question):
        full = question.pop("max_seconds", None) is None
        return dataclasses.replace(search(operator, **question), stopped="converged" if full else "out of time")

    monkeypatch.setattr(curvature, "top_eigenvalues", hurried)
    budget = Budget(1e6, {"eigenvalues": 1.0, "density": 1.0}, clock=lambda: 0.0)
    within = Subject(run, protocol, budget=budget)
    assert curvature.eigenvalues(within).is_cut_short
    short = curvature.density(within)  # it had all the time it needed, for outliers that are not known well
    assert curvature.answered(Subject(run, protocol)) == []
    assert curvature.density(Subject(run, protocol)).path != short.path


def test_results_that_do_not_say_why_they_ended_are_full():
    assert not is_cut_short(TraceEstimate(estimate=1.0, stderr=0.1, samples=np.ones(2)))


def test_what_is_answered_is_told_and_a_short_answer_is_none(run, protocol, asked):
    assert curvature.answered(Subject(run, protocol)) == []
    curvature.trace(subject(run, protocol, 2.0))
    assert curvature.answered(Subject(run, protocol)) == []
    curvature.trace(Subject(run, protocol))
    curvature.eigenvalues(Subject(run, protocol))
    assert curvature.answered(Subject(run, protocol)) == ["eigenvalues", "trace"]


def test_a_certificate_is_made_anew_and_kept_beside_what_it_certifies(run, protocol):
    made = Subject(run, protocol)
    answer = curvature.eigenvalues(made)
    first, second = curvature.certificate(made, answer), curvature.certificate(made, answer)
    assert first.path == second.path == answer.path.with_name(f"certificate-{answer.path.name}")
    assert first.result.passed
    assert Certificate.load(first.path) == second.result
    tampered = dataclasses.replace(answer, result=dataclasses.replace(answer.result, residuals=np.zeros(2)))
    wrong = dataclasses.replace(answer.result, eigenvalues=1.1 * answer.result.eigenvalues)
    assert not curvature.certificate(made, dataclasses.replace(tampered, result=wrong)).result.passed


def test_a_forecast_asks_what_the_protocol_asks_and_writes_nothing(run, protocol):
    forecast = curvature.forecast(Subject(run, protocol))
    assert forecast.questions.tolist() == ["eigenvalues", "trace", "density"]
    assert forecast.products.tolist()[1:] == [6, 16]
    assert (forecast.products <= forecast.most_products).all()
    assert (forecast.seconds > 0).all()
    assert not (run.path / "results").exists()
