"""Of several ways of computing products the quickest is taken, and none that is wrong."""

from __future__ import annotations

import pytest
import torch
from problems import dense_hessian, normal, problem, ragged

import landscape.choices
from landscape import (
    CentralDifferences,
    EmpiricalFisherOperator,
    FastestProducts,
    FirstThatWorks,
    ForwardOverReverse,
    GGNOperator,
    HessianOperator,
    KeptGraphs,
    Objective,
    RebuiltGraphs,
)

WAYS = (KeptGraphs, RebuiltGraphs, ForwardOverReverse)


def objective_of(way, **options):
    given = problem("tanh_mlp")
    return Objective(given.model, given.loss, ragged(given.x, given.y), products=way, **options)


def test_the_quickest_way_is_chosen_and_wrong_ones_are_found(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0])
    monkeypatch.setattr(landscape.choices.time, "perf_counter", lambda: next(clock))
    hessian = HessianOperator(objective_of(FastestProducts(RebuiltGraphs(), ForwardOverReverse())))
    hessian.apply(normal(31))
    assert hessian.words == "forward-over-reverse"
    monkeypatch.undo()
    honest = landscape.curvatures.HESSIAN.forward
    object.__setattr__(landscape.curvatures.HESSIAN, "forward", lambda term, w: lambda V: 1.01 * honest(term, w)(V))
    try:
        with pytest.raises(ValueError, match=r"by graphs kept and by forward-over-reverse differ by .*e-02"):
            HessianOperator(objective_of(FastestProducts())).apply(normal(31))
    finally:
        object.__setattr__(landscape.curvatures.HESSIAN, "forward", honest)


def test_differences_are_no_measure_for_exact_ways():
    hessian = HessianOperator(objective_of(FastestProducts(CentralDifferences(), KeptGraphs())))
    assert torch.allclose(hessian.apply(normal(31)), HessianOperator(objective_of(KeptGraphs())).apply(normal(31)))


@pytest.mark.parametrize("quick", range(3))
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
def test_whichever_way_is_the_quickest_agrees_with_the_others_within_rounding(kind, quick, monkeypatch):
    times = iter(t for place in range(3) for t in (0.0, 1.0 if place == quick else 5.0))
    monkeypatch.setattr(landscape.choices.time, "perf_counter", lambda: next(times))
    chosen = kind(objective_of(FastestProducts(*(way() for way in WAYS)), chunk_size=4))
    V = torch.stack([normal(31, seed=seed) for seed in range(3)], dim=1)
    image = chosen.apply(V)
    by_name = [kind(objective_of(way(), chunk_size=4)) for way in WAYS]
    for other in by_name:
        assert torch.allclose(image, other.apply(V), rtol=1e-11, atol=1e-13)
    assert chosen.words == by_name[quick].words


def broken(way, wrong):
    """A way whose products are right but for what is made of them."""

    class Broken(way):
        def bind(self, *given, **named):
            bound = super().bind(*given, **named)
            honest = bound.product
            bound.product = lambda term, V: wrong(honest(term, V))
            return bound

    return Broken()


WRONG = {
    "size": lambda image: image * (1 + 1e-9),
    "sign": lambda image: -image,
    "zero": torch.zeros_like,
    "nan": lambda image: image * float("nan"),
    "one entry": lambda image: image.index_fill(0, torch.tensor([3]), 0.0),
    "order of columns": lambda image: image.flip(1),
}


@pytest.mark.parametrize("quickest", [0, 1])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_way_with_wrong_numbers_is_never_taken_in_silence(wrong, quickest, monkeypatch):
    times = iter([0.0, 1.0, 0.0, 5.0] if quickest == 0 else [0.0, 5.0, 0.0, 1.0])
    monkeypatch.setattr(landscape.choices.time, "perf_counter", lambda: next(times))
    ways = FastestProducts(KeptGraphs(), broken(ForwardOverReverse, WRONG[wrong]))
    with pytest.raises(
        ValueError, match=r"by graphs kept and by forward-over-reverse differ by .* one of them is wrong"
    ):
        HessianOperator(objective_of(ways)).apply(normal(31))


@pytest.mark.parametrize("inside", [lambda way: way, lambda way: FirstThatWorks(way)])
def test_differences_that_are_off_by_more_than_they_say_are_not_taken_in_silence(inside):
    right, wrong = CentralDifferences(), broken(CentralDifferences, lambda image: 1.01 * image)
    taken = HessianOperator(objective_of(FastestProducts(inside(right), KeptGraphs())))
    assert torch.allclose(taken.apply(torch.eye(31).double()), dense_hessian(problem("tanh_mlp")), rtol=0, atol=1e-6)
    for ways in ((wrong, KeptGraphs()), (KeptGraphs(), wrong)):
        hessian = HessianOperator(objective_of(FastestProducts(*map(inside, ways))))
        with pytest.raises(ValueError, match=r"by graphs kept and by central differences .* differ by 1.0e-02"):
            hessian.apply(normal(31))
