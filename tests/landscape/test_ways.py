"""All ways of computing products give one matrix, and say which they are."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import ZOO, dense_ggn, dense_hessian, normal, problem, ragged
from torch import nn

import landscape.ways
from landscape import (
    CentralDifferences,
    FastestProducts,
    FirstThatWorks,
    ForwardOverReverse,
    GGNOperator,
    HessianOperator,
    KeptGraphs,
    Objective,
    RebuiltGraphs,
    trace,
)
from landscape.memory import graph_measured
from landscape.products import hessian_at

EXACT = {
    "kept": KeptGraphs,
    "some kept": lambda: KeptGraphs(memory=9000),
    "rebuilt": RebuiltGraphs,
    "forward": ForwardOverReverse,
    "fastest": FastestProducts,
    "first": lambda: FirstThatWorks(RebuiltGraphs(), CentralDifferences()),
}


def objective_of(name, way, **options):
    given = problem(name)
    return Objective(given.model, given.loss, ragged(given.x, given.y), products=way, **options)


def eye(objective):
    return torch.eye(objective.space.dim).double()


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize("name", ZOO)
def test_every_way_gives_the_dense_matrices(name, way):
    given = problem(name)
    if given.loss is F.mse_loss and way == "forward":  # torch has no forward derivative of its derivative
        hessian = HessianOperator(objective_of(name, ForwardOverReverse()))
        with pytest.raises(ValueError, match="this model cannot be taken forward-over-reverse"):
            hessian.apply(hessian.weights)
        return
    objective = objective_of(name, EXACT[way](), chunk_size=4)
    for operator, dense in ((HessianOperator, dense_hessian), (GGNOperator, dense_ggn)):
        image = operator(objective).apply(eye(objective))
        assert torch.allclose(image, dense(given), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_batch_norm", "attention"])
def test_differences_are_off_by_what_they_say(name):
    given = problem(name)
    objective = objective_of(name, CentralDifferences())
    for operator, dense in ((HessianOperator(objective), dense_hessian), (GGNOperator(objective), dense_ggn)):
        image = operator.apply(eye(objective))
        assert 1e-13 < relative(image, dense(given)) < 1e-6
        assert operator.words.startswith("central differences of first derivatives, step ")
        assert operator.manifest()["operator"]["products"] == "differences"
        assert not operator.is_exact


def test_differences_across_kinks_are_refused_where_no_step_avoids_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    data = [(normal(200, 20).float(), torch.arange(200) % 3)]
    hessian = HessianOperator(Objective(model, F.cross_entropy, data, products=CentralDifferences()))
    with pytest.raises(ValueError, match=r"differences of first derivatives say nothing here: they change by \d+%"):
        hessian.apply(hessian.weights)


def test_differences_of_a_loss_with_kinks_have_steps_that_hardly_cross_them():
    def margins(outputs, y):  # nn.MultiMarginLoss, which torch cannot differentiate twice, in operations that it can
        rises = (1 - outputs.gather(1, y[:, None]) + outputs).clamp(min=0).scatter(1, y[:, None], 0.0)
        return rises.sum(dim=1).mean() / outputs.shape[1]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    data = [(normal(41, 4), torch.arange(41) % 3)]
    by_differences, exact = (HessianOperator(Objective(model, loss, data)) for loss in (nn.MultiMarginLoss(), margins))
    one_by_one = torch.eye(exact.dim).double()
    assert relative(by_differences.apply(one_by_one), exact.apply(one_by_one)) < 1e-6
    assert abs(trace(by_differences, num_probes=exact.dim).estimate) < 1e-6
    assert not by_differences.is_exact


def test_differences_do_not_depend_on_the_length_of_the_vector():
    objective = objective_of("tanh_mlp", CentralDifferences())
    hessian, v = HessianOperator(objective), normal(31)
    for length in (1e-9, 1e9):
        assert torch.allclose(hessian.apply(length * v), length * hessian.apply(v), rtol=1e-7, atol=0)
    assert not hessian.apply(torch.zeros(31).double()).any()


def test_differences_in_single_precision_are_right_to_a_few_thousandths():
    given = problem("tanh_mlp")
    single = Objective(given.model.float(), given.loss, ragged(given.x.float(), given.y), products=CentralDifferences())
    hessian = HessianOperator(single)
    image = hessian.apply(torch.eye(31))
    assert relative(image.double(), dense_hessian(problem("tanh_mlp"))) < 3e-3


def test_exact_ways_are_said_with_the_machine_and_can_be_compared():
    kept, rebuilt = (HessianOperator(objective_of("tanh_mlp", way)) for way in (KeptGraphs(), RebuiltGraphs()))
    v = normal(31)
    assert torch.equal(kept.apply(v), rebuilt.apply(v))
    assert kept.manifest()["machine"]["products"] == "graphs kept"
    assert rebuilt.manifest()["machine"]["products"] == "graphs rebuilt"
    assert kept.manifest()["operator"] == rebuilt.manifest()["operator"] == {"name": "HessianOperator"}


def test_graphs_are_built_once_where_they_are_kept(monkeypatch):
    built = []
    monkeypatch.setattr(landscape.curvatures, "hessian_at", lambda loss, w: built.append(1) or hessian_at(loss, w))
    for way, number in ((KeptGraphs(), 3), (RebuiltGraphs(), 9), (KeptGraphs(memory=0), 9)):
        objective = objective_of("tanh_mlp", way, chunk_size=5)
        hessian = HessianOperator(objective)
        hessian.apply(normal(31))  # certified
        hessian = HessianOperator(objective)
        built.clear()
        for seed in range(3):
            hessian.apply(normal(31, seed=seed))
        assert len(built) == number


def test_kept_graphs_stay_within_their_budget():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    data = [(normal(640, 64), torch.arange(640) % 10)]
    free = HessianOperator(Objective(model, F.cross_entropy, data, products=KeptGraphs(), chunk_size=64))
    there = [free.weights, free.objective.batches[0][0], free.objective.batches[0][1]]
    with graph_measured(without=there) as everything:
        graphs = [hessian_at(term.loss, free.weights) for term in free.objective.work.terms]
    assert len(graphs) == 10
    budget = (everything.num_bytes + len(graphs) * free.weights.nbytes) // 2  # each holds a gradient too
    held = HessianOperator(Objective(model, F.cross_entropy, data, products=KeptGraphs(memory=budget), chunk_size=64))
    held.apply(held.weights)
    bound = held._at._bound
    assert 4 <= len(bound.graphs) <= 5
    assert bound.used <= budget
    kept = sorted(bound.graphs, key=id)
    there = [held.weights, held.objective.batches[0][0], held.objective.batches[0][1]]
    with graph_measured(without=there) as measured:
        again = [hessian_at(term.loss, held.weights) for term in kept]
    assert len(again) == len(kept)
    assert 0.7 * budget < measured.num_bytes + len(kept) * held.weights.nbytes <= budget
    assert torch.allclose(held.apply(held.weights), free.apply(free.weights), rtol=1e-12)
    assert f"graphs of {len(kept)} of 10 chunks kept" in held.words


def test_graphs_go_with_the_operator_and_with_a_change_of_the_weights():
    objective = objective_of("tanh_mlp", KeptGraphs())
    hessian = HessianOperator(objective)
    hessian.apply(normal(31))
    graph = weakref.ref(next(iter(hessian._at._bound.graphs.values())))
    del hessian
    gc.collect()
    assert graph() is None
    w = objective.weights.clone()
    before = objective.hvp(w, normal(31))
    w += 0.3
    after = objective.hvp(w, normal(31))
    assert not torch.allclose(before, after)
    assert torch.equal(after, objective.hvp(w.clone(), normal(31)))


def test_an_operator_keeps_the_weights_it_was_made_with():
    objective = objective_of("tanh_mlp", KeptGraphs())
    w = objective.weights + 0.5
    hessian = HessianOperator(objective, weights=w)
    before = hessian.apply(normal(31))
    w.zero_()
    assert torch.equal(hessian.apply(normal(31)), before)


@pytest.mark.parametrize("way", [KeptGraphs, RebuiltGraphs])
def test_lack_of_memory_lets_go_of_graphs_and_then_halves_chunks_and_says_so(monkeypatch, way):
    given = problem("tanh_mlp")
    objective = Objective(given.model, given.loss, [(given.x, given.y)], products=way())
    hessian = HessianOperator(objective)
    hessian.apply(normal(31))
    honest = landscape.curvatures.hessian_at

    def scarce(loss, w):
        if len(loss.__self__.batch[0]) > 4:
            raise torch.OutOfMemoryError("not enough memory")
        return honest(loss, w)

    monkeypatch.setattr(landscape.curvatures, "hessian_at", scarce)
    hessian = HessianOperator(objective)
    image = hessian.apply(torch.eye(31).double())
    assert torch.allclose(image, dense_hessian(given), rtol=1e-10, atol=1e-12)
    assert "chunks halved 3 times for lack of memory" in hessian.words  # 13 -> 6 + 7 -> 3 + 3 + 3 + 4


def test_no_memory_for_one_example_is_one_sentence(monkeypatch):
    def scarce(loss, w):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(landscape.curvatures, "hessian_at", scarce)
    with pytest.raises(MemoryError, match="no memory for the graph of a single example; take a device with more"):
        HessianOperator(objective_of("tanh_mlp", KeptGraphs())).apply(normal(31))


def test_what_is_no_way_is_refused():
    given = problem("tanh_mlp")
    with pytest.raises(TypeError, match=r"products must be a way of computing them, as KeptGraphs\(\); got 'kept'"):
        Objective(given.model, given.loss, ragged(given.x, given.y), products="kept")
    with pytest.raises(ValueError, match="memory must be a number of bytes, zero or more; got -1"):
        KeptGraphs(memory=-1)
    with pytest.raises(ValueError, match="one or more ways"):
        FirstThatWorks()
    with pytest.raises(ValueError, match="chunk_size must be at least 1; got 0"):
        Objective(given.model, given.loss, ragged(given.x, given.y), chunk_size=0)


def test_the_gradient_that_a_graph_holds_counts_as_kept():
    model = nn.Linear(50, 40)
    data = [(torch.randn(6, 50), torch.randn(6, 40))]
    objective = Objective(model, F.mse_loss, data, chunk_size=1, products=KeptGraphs(memory=3 * 2040 * 4 + 4000))
    hessian = HessianOperator(objective)
    hessian.apply(torch.ones(2040))
    assert 2 <= len(hessian._at._bound.graphs) <= 3  # of 6


def test_the_budget_counts_the_longest_examples_where_most_are_short():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())
    short, long = ((torch.randn(n, m, 4), torch.randn(n, m, 2)) for n, m in ((40, 2), (30, 500)))
    alone = Objective(model, F.mse_loss, [long]).work.graph
    both = Objective(model, F.mse_loss, [short, long], denominator=lambda _, targets: targets.numel()).work.graph
    assert both.each == alone.each
