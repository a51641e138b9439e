"""Durations, and how questions share them."""

from __future__ import annotations

import pytest

from analyses.budget import LEAST, Budget, seconds_of
from analyses.plan import Plan, verdict
from landscape.answers import Certificate, Check


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("60s", 60), ("90", 90), ("2m", 120), ("1h", 3600), ("1.5m", 90), (".5", 0.5), (" 2 M ", 120)],
)
def test_durations_are_seconds(duration, seconds):
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize("duration", ["", "0", "0s", "-5", "60sec", "1d", "m", "nan", "inf", "1e3", "5 5", "1,5m"])
def test_what_is_no_duration_is_refused(duration):
    with pytest.raises(ValueError, match="a budget is a duration above zero, such as 60s, 2m, 1h or 90; got"):
        seconds_of(duration)


def test_what_a_question_does_not_use_goes_to_the_next():
    now = [100.0]
    budget = Budget(80.0, {"eigenvalues": 2, "trace": 1, "density": 1}, clock=lambda: now[0])
    assert budget.allot("eigenvalues") == 40
    now[0] += 10
    assert budget.allot("trace") == 35
    now[0] += 60
    assert budget.allot("density") == budget.left == 10


def test_a_question_that_comes_too_late_gets_the_least_and_never_nothing():
    now = [0.0]
    budget = Budget(1.0, {"a": 1, "b": 1}, clock=lambda: now[0])
    now[0] = 5.0
    assert budget.left == 0
    assert budget.allot("a") == LEAST > 0


def test_a_share_that_is_forgone_is_for_the_others():
    budget = Budget(60.0, {"a": 1, "b": 1, "c": 1}, clock=lambda: 0.0)
    budget.forgo("a")
    assert budget.allot("b") == 30


@pytest.mark.parametrize(
    ("ways", "sentence"),
    [
        ({"certify": True, "dry_run": True}, "choose one of --dry-run and --certify"),
        ({"certify": True, "all_checkpoints": True}, "choose one of --all-checkpoints and --certify"),
        ({"dry_run": True, "all_checkpoints": True}, "choose one of --dry-run and --all-checkpoints"),
        ({"dry_run": True, "budget": "60s"}, "--dry-run measures nothing that a --budget could limit"),
        ({"budget": "60s", "estimator": "exact-gauss-newton"}, "cannot cut short the passes of --estimator"),
        ({"all_checkpoints": True, "given": {"estimator"}}, "leave out --estimator"),
        ({"all_checkpoints": True, "given": {"eigenvalues", "density_steps"}}, "leave out -k, --steps"),
        ({"budget": "soon"}, "a budget is a duration above zero"),
    ],
)
def test_ways_that_do_not_go_together_are_refused(ways, sentence):
    with pytest.raises(ValueError, match=sentence):
        Plan(**ways)


def test_a_plan_says_what_is_certified_and_how_the_time_is_shared():
    assert Plan().budget_for(("trace",)) is None
    assert Plan().certified == ()
    assert Plan(certify=True, budget="2m").certified == ("eigenvalues", "trace")
    budget = Plan(budget="1m").budget_for(("eigenvalues", "trace", "density"))
    assert budget.seconds == 60
    assert budget.allot("eigenvalues") == pytest.approx(30, rel=0.01)


def test_what_failed_in_certificates_is_one_sentence():
    good = Check("symmetry", 0.0, 0.1, "passed", 1.0)
    bad = Check("residual", 0.5, 0.001, "FAILED", 1.0, "pair 3")
    passed, failed = (Certificate.of("Eigenpairs", checks, {}) for checks in ([good], [good, bad]))
    assert verdict({"eigenvalues": passed, "trace": passed}) == ""
    assert verdict({"eigenvalues": failed, "trace": passed}) == (
        "the certificate failed: residual is 0.5, at most 0.001 is right (pair 3), of the eigenvalues. "
        "Do not use these numbers as they are"
    )
