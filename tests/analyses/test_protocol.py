from __future__ import annotations

import dataclasses
import math

import pytest

import landscape
from analyses.protocol import ESTIMATORS, Protocol

COUNTS = {
    "eigenvalues": 1,
    "density_steps": 1,
    "density_probes": 1,
    "microbatch_size": 1,
    "trace_probes": 2,
    "line_points": 2,
    "plane_points": 2,
    "draws": 2,
}
POSITIVE = ("tol", "rho", "reach", "noise")


@pytest.mark.parametrize(("name", "least"), COUNTS.items())
def test_a_count_below_its_least_is_refused_by_name_and_value(name, least):
    assert getattr(Protocol(**{name: least}), name) == least
    with pytest.raises(ValueError, match=f"^{name} must be at least {least}; got {least - 1}$"):
        Protocol(**{name: least - 1})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", POSITIVE)
def test_a_length_that_is_not_positive_and_finite_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a positive, finite number; got {value}$"):
        Protocol(**{name: value})


@pytest.mark.parametrize("value", ["valid", "", "Train"])
def test_a_split_that_there_is_none_of_is_refused(value):
    with pytest.raises(ValueError, match=f"^split must be 'train', 'validation' or 'test'; got {value!r}$"):
        Protocol(split=value)


def test_a_pattern_that_no_name_can_match_is_refused():
    with pytest.raises(ValueError, match=r"such as 'head\.\*'; got ''"):
        Protocol(parameters="")


@pytest.mark.parametrize("value", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(value):
    with pytest.raises(ValueError, match=f"seed must be .*; got {value}$"):
        Protocol(seed=value)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_tolerance_that_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=f"tolerance must be a share of the range.*; got {value}$"):
        Protocol(tolerance=value)


def test_an_estimator_that_there_is_none_of_is_refused_and_all_others_are_landscapes():
    with pytest.raises(ValueError, match=r"estimator must be 'krylov-aware', .* or 'exact-gauss-newton'; got 'all'"):
        Protocol(estimator="all")
    assert all(isinstance(getattr(landscape, name)(), landscape.Estimator) for name, _ in ESTIMATORS.values())


def test_what_is_no_truth_value_is_refused():
    with pytest.raises(ValueError, match=r"other_data must be True or False; got 'no'"):
        Protocol(other_data="no")


def test_every_setting_is_checked():
    checked = {*COUNTS, *POSITIVE, "split", "parameters", "seed", "tolerance", "estimator", "other_data"}
    assert {entry.name for entry in dataclasses.fields(Protocol)} == checked


def test_a_protocol_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Protocol().rho = 1.0
