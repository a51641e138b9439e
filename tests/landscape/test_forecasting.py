"""Forecasts count what a question takes, and measure what it costs."""

from __future__ import annotations

import math

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


class Timed(HessianOperator):
    """Products that move a clock on: by what they share, and by so much for each vector."""

    now = 0.0

    def __init__(self, objective, costs):
        super().__init__(objective)
        self.costs = costs  # columns -> seconds

    def apply(self, V):
        Timed.now += self.costs(1 if V.ndim == 1 else V.shape[1])
        return super().apply(V)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time goes by in products of Timed only; gradients take none."""
    monkeypatch.setattr("landscape.forecasting.perf_counter", lambda: Timed.now)


def test_seconds_are_those_of_products_in_blocks():
    operator = Timed(operator_of(SPECTRA["zero"]).objective, lambda columns: 5 + columns)
    result = forecast(operator, [Question("single", 10, 40, 1, 5), Question("blocks", 25, 25, 10, 5)])
    assert result.product_seconds == 6
    assert result.seconds.tolist() == pytest.approx([10 * 6, 3 * 5 + 25])  # three blocks, the last of five
    assert result.most_seconds.tolist() == pytest.approx([40 * 6, 3 * 5 + 25])
    assert result.spread.tolist() == [0, 0]
    assert result.products.tolist() == [10, 25]
    assert result.most_products.tolist() == [40, 25]


def test_where_a_block_takes_as_long_as_a_vector_it_is_counted_so():
    operator = Timed(operator_of(SPECTRA["zero"]).objective, lambda columns: 3)
    assert forecast(operator, [Question("a", 25, 25, 10, 5)]).seconds.tolist() == pytest.approx([9])
    operator.costs = lambda columns: 2 * columns**2  # worse than one by one: then they would be taken so
    assert forecast(operator, [Question("a", 25, 25, 10, 5)]).seconds.tolist() == pytest.approx([50])


def test_the_spread_is_that_of_the_timings():
    durations = iter([0.0, 10.0, 30.0, 20.0, 20.0])
    operator = Timed(operator_of(SPECTRA["zero"]).objective, lambda columns: next(durations))
    result = forecast(operator, ONE, repeats=2)
    assert result.spread[0] / result.seconds[0] == pytest.approx(math.sqrt(200) / 20)  # of 10 and 30


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
    with pytest.raises(TypeError, match=r"questions must be Question\(...\), .*; got \['trace'\]"):
        forecast(operator, ["trace"])
    with pytest.raises(TypeError, match="operator must be a curvature operator"):
        forecast(operator.objective, ONE)
