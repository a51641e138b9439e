from __future__ import annotations

import numpy as np
import pytest
from problems import problem

from landscape import (
    AdaptiveAscent,
    GradientAscent,
    HessianOperator,
    Result,
    m_sharpness,
    pyhessian_eigenvalues,
    random_direction,
    spectral_density,
    top_eigenvalues,
    trace,
)
from landscape.arguments import integer, real

I, F = np.int64, np.float32  # noqa: E741

MEASURED = {
    "top_eigenvalues": lambda o: top_eigenvalues(
        HessianOperator(o), k=I(2), tol=F(1e-3), max_products=I(20), seed=I(1)
    ),
    "spectral_density": lambda o: spectral_density(
        HessianOperator(o), num_steps=I(3), num_probes=np.int32(2), seed=np.uint8(1)
    ),
    "trace": lambda o: trace(HessianOperator(o), num_probes=I(4), seed=I(1)),
    "m_sharpness": lambda o: m_sharpness(o, GradientAscent(rho=F(0.05)), microbatch_size=I(4)),
    "adaptive": lambda o: m_sharpness(o, AdaptiveAscent(rho=F(0.5), eta=F(0.1)), microbatch_size=I(4)),
    "pyhessian": lambda o: pyhessian_eigenvalues(o, I(1), max_iterations=I(2), tol=F(1e-3), seed=I(1)),
}
PLAIN = {
    "top_eigenvalues": lambda o: top_eigenvalues(HessianOperator(o), 2, tol=float(F(1e-3)), max_products=20, seed=1),
    "trace": lambda o: trace(HessianOperator(o), 4, seed=1),
    "m_sharpness": lambda o: m_sharpness(o, GradientAscent(float(F(0.05))), microbatch_size=4),
}


@pytest.mark.parametrize("name", MEASURED)
def test_results_asked_for_with_numpy_numbers_can_be_saved_and_loaded(name, tmp_path):
    result = MEASURED[name](problem("tanh_mlp").objective())
    loaded = Result.load(result.save(tmp_path / "result.npz"))
    assert loaded.summary() == result.summary()
    assert loaded.manifest["measurement"] == result.manifest["measurement"]


@pytest.mark.parametrize("name", PLAIN)
def test_numpy_numbers_ask_the_same_question_as_plain_ones(name):
    objective = problem("tanh_mlp").objective()
    one, other = MEASURED[name](objective), PLAIN[name](objective)
    assert one.summary() == other.summary()
    assert one.manifest == other.manifest


def test_a_direction_takes_a_numpy_seed():
    objective = problem("tanh_mlp").objective()
    assert random_direction(objective, seed=I(3)).equal(random_direction(objective, seed=3))


OPERATOR = HessianOperator(problem("tanh_mlp").objective())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda n: top_eigenvalues(OPERATOR, k=n), "k"),
        (lambda n: top_eigenvalues(OPERATOR, max_products=n), "max_products"),
        (lambda n: top_eigenvalues(OPERATOR, seed=n), "seed"),
        (lambda n: spectral_density(OPERATOR, num_steps=n), "num_steps"),
        (lambda n: spectral_density(OPERATOR, num_probes=n), "num_probes"),
        (lambda n: trace(OPERATOR, num_probes=n), "num_probes"),
        (lambda n: m_sharpness(OPERATOR.objective, GradientAscent(0.1), microbatch_size=n), "the size of a shard"),
    ],
)
@pytest.mark.parametrize("value", [2.5, np.float64(2), "2", True])
def test_what_is_no_integer_is_refused_by_name(call, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be an integer; got "):
        call(value)


def test_a_tolerance_that_is_no_number_is_refused_by_name():
    with pytest.raises(TypeError, match="tol must be a number; got '1e-3'"):
        top_eigenvalues(OPERATOR, tol="1e-3")


@pytest.mark.parametrize("measure", [trace, top_eigenvalues, spectral_density])
def test_an_objective_instead_of_an_operator_is_refused_with_the_way_out(measure):
    with pytest.raises(TypeError, match=r"got Objective\. Wrap it in HessianOperator\(objective\)"):
        measure(OPERATOR.objective)
    with pytest.raises(TypeError, match=r"got ndarray\. Pass a HessianOperator or a GGNOperator"):
        measure(np.eye(3))


def test_numbers_become_plain_ones():
    assert type(integer(np.uint8(3), "n")) is int
    assert type(real(np.float32(3), "x")) is float
    assert type(real(np.int64(3), "x")) is float


def test_a_whole_number_may_have_a_least_value():
    assert integer(np.int64(2), "k", least=2) == 2
    with pytest.raises(ValueError, match="k must be at least 2; got 1"):
        integer(1, "k", least=2)
    with pytest.raises(TypeError, match="k must be an integer; got True"):
        integer(True, "k", least=0)
