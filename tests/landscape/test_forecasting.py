"""Forecasts count what a question takes, and measure what it costs."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from problems import classes, normal, problem
from spectra import SPECTRA, operator_of
from torch import nn
from torch.nn import functional

from landscape import Forecast, HessianOperator, Objective, Question, Result, forecast
from landscape.forecasting import _Held
from landscape.ways import KeptGraphs, Products, RebuiltGraphs

ONE = [Question("trace", typical=100, most=100, block=10, vectors=20)]


class Slow(HessianOperator):
    """Products that take 5 ms, and 1 ms more for each vector."""

    def apply(self, V):
        time.sleep(0.005 + 0.001 * (1 if V.ndim == 1 else V.shape[1]))
        return super().apply(V)


def test_seconds_are_those_of_products_in_blocks():
    operator = Slow(operator_of(SPECTRA["zero"]).objective)
    questions = [Question("single", 10, 40, 1, 5), Question("blocks", 20, 20, 10, 5)]
    result = forecast(operator, questions, repeats=5)
    each = result.product_seconds
    assert each > 0.006
    assert result.seconds[0] == pytest.approx(10 * each)
    assert result.most_seconds[0] == pytest.approx(40 * each)
    # Two blocks of ten: 2 * 5 ms + 20 * 1 ms, where single products would take 120 ms.
    assert 0.03 < result.seconds[1] < 0.7 * 20 * each
    assert result.products.tolist() == [10, 20]
    assert result.most_products.tolist() == [40, 20]


def test_the_spread_is_that_of_the_timings():
    durations = iter([0.0, 0.01, 0.03, 0.02, 0.02])

    class Varying(HessianOperator):
        def apply(self, V):
            time.sleep(next(durations))
            return super().apply(V)

    objective = operator_of(SPECTRA["zero"]).objective
    objective.hvp(objective.weights, objective.weights)
    result = forecast(Varying(objective), ONE, repeats=2)
    single = math.sqrt(2) * 0.01 / 0.02  # standard deviation over median of 10 and 30 ms
    assert result.spread[0] / result.seconds[0] == pytest.approx(single, rel=0.3)


def test_memory_is_that_of_the_vectors_and_of_the_graph():
    operator = operator_of(SPECTRA["spread"])
    small, large = forecast(operator, [Question("a", 1, 1, 1, 10), Question("b", 1, 1, 1, 30)]).memory
    assert large - small == 20 * 40 * 8


def graph_of(sizes: list[int], products: Products) -> float:
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)).double()
    data = [(normal(n, 4), classes(n, 3)) for n in sizes]
    objective = Objective(model, functional.cross_entropy, data, products=products)
    return forecast(HessianOperator(objective), ONE).graph_bytes


def test_rebuilt_graphs_grow_with_the_largest_batch_and_kept_ones_with_all_of_them():
    one, three, six = (graph_of([400] * number, RebuiltGraphs()) for number in (1, 3, 6))
    assert one >= 400 * 50 * 8  # the hidden activations, at the least
    assert one < three == six < 3 * one  # parts of the last are let go when the next is there
    assert graph_of([800], RebuiltGraphs()) == pytest.approx(2 * one, rel=0.05)
    one, two, four = (graph_of([400] * number, KeptGraphs()) for number in (1, 2, 4))
    assert two == pytest.approx(2 * one, rel=0.05)
    assert four == pytest.approx(4 * one, rel=0.05)


def test_what_autograd_holds_is_counted_once_and_until_it_is_freed():
    a = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    held = _Held([a])
    with held.counted():
        b = a.exp()  # saves b
        c = b * b  # saves b again
        d = c.sin()  # saves c
    assert held.bytes == held.most == 2 * 8000
    d.sum().backward()
    assert held.bytes == 0
    assert held.most == 2 * 8000
    e = a.exp()
    assert held.bytes == 0
    assert e.requires_grad


def test_where_saved_tensors_cannot_be_seen_the_memory_is_not_known():
    class Unseen(HessianOperator):
        refused = False

        def apply(self, V):
            if not self.refused:
                self.refused = True
                raise RuntimeError("function transforms don't yet support saved tensor hooks")
            return V

    result = forecast(Unseen(problem("tanh_mlp").objective()), ONE)
    assert math.isnan(result.graph_bytes)
    assert np.isnan(result.memory).all()
    assert result.seconds[0] > 0


def test_a_forecast_is_a_result_that_can_be_saved(tmp_path):
    result = forecast(operator_of(SPECTRA["spread"]), ONE)
    loaded = Result.load(result.save(tmp_path / "f.npz"))
    assert isinstance(loaded, Forecast)
    assert loaded == result
    (row,) = loaded.summary()["questions"]
    assert row["question"] == "trace"
    assert row["products"] == 100
    assert loaded.summary()["total"]["seconds"] == pytest.approx(result.seconds[0])
    assert loaded.lines()[0].uncertainty == result.spread[0]


def test_bad_arguments_are_refused():
    operator = operator_of(SPECTRA["spread"])
    with pytest.raises(ValueError, match="repeats must be at least 2, to give a spread; got 1"):
        forecast(operator, ONE, repeats=1)
    with pytest.raises(ValueError, match="questions is empty"):
        forecast(operator, [])
    with pytest.raises(TypeError, match="operator must be a curvature operator"):
        forecast(operator.objective, ONE)
