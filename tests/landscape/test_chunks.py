"""How data are cut into chunks, and what a graph takes."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, normal, problem, ragged
from torch import nn

from landscape import HessianOperator, Objective
from landscape.batches import num_examples
from landscape.chunks import MOST_EXAMPLES, QUICK_BYTES, GraphSize, cut, halves, merged
from landscape.memory import available_bytes, graph_measured, in_words, is_out_of_memory
from landscape.processes import Alone
from landscape.terms import Term


def sizes(batches):
    return [len(batch[0]) for batch in batches]


def test_batches_are_cut_and_put_together_again_in_their_order():
    x, y = normal(N, 3), torch.arange(N)
    pieces = merged(ragged(x, y))
    assert sizes(pieces) == [N]
    assert sizes(cut(pieces, 4)) == [4, 4, 4, 1]
    assert torch.equal(torch.cat([piece[1] for piece in cut(pieces, 4)]), y)
    assert cut(pieces, 4)[0][0].untyped_storage().data_ptr() == pieces[0][0].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("examples", "number", "chunk_size", "expected"),
    [
        (17, 3, None, [[6], [6], [5]]),  # not one for the first alone
        (2500, 2, None, [[625, 625], [625, 625]]),  # not 1024, and twice that
        (2, 3, None, [[], [1], [1]]),
        (17, 2, 16, [[16], [1]]),  # as it was asked for
    ],
)
def test_processes_that_share_chunks_have_as_many_as_one_another(examples, number, chunk_size, expected):
    class OneOf(Alone):
        is_first = True  # all of them measure the same

        def __init__(self, rank):
            super().__init__()
            self.rank, self.number = rank, number

    model, data = nn.Linear(3, 2), [(torch.zeros(examples, 3), torch.zeros(examples, dtype=torch.long))]
    plain = Objective(model, F.cross_entropy, data, chunk_size=chunk_size).work
    for rank, own in enumerate(expected):
        shared = plain.of(plain.batches, sharing=OneOf(rank))
        assert [num_examples(term.batch) for term in shared.terms] == own


def test_examples_of_several_shapes_are_not_put_together():
    batches = [(torch.zeros(2, 3), 0), (torch.zeros(1, 3), 0), (torch.zeros(1, 4), 0), (torch.zeros(1, 4), 1)]
    assert sizes(merged(batches)) == [3, 1, 1]


@pytest.mark.parametrize("chunk_size", [1, 4, 5, 100])
def test_the_size_of_chunks_changes_rounding_only(chunk_size):
    given = problem("conv_batch_norm")
    usual = given.objective()
    other = Objective(given.model, given.loss, ragged(given.x, given.y), chunk_size=chunk_size)
    w = usual.weights + 0.1
    assert torch.allclose(other.loss(w), usual.loss(w), rtol=1e-13)
    assert torch.allclose(other.gradient(w), usual.gradient(w), rtol=1e-11, atol=1e-14)
    assert torch.allclose(other.hvp(w, w), usual.hvp(w, w), rtol=1e-11, atol=1e-14)
    assert max(sizes(term.batch for term in other.work.terms)) <= chunk_size
    assert other.manifest()["objective"] == usual.manifest()["objective"]


def test_the_data_are_held_once():
    given = problem("tanh_mlp")
    objective = given.objective()
    places = {t.untyped_storage().data_ptr() for batch in objective.batches for t in batch}
    assert len(places) == 2
    assert {t.untyped_storage().data_ptr() for term in objective.work.terms for t in term.batch} == places
    assert given.x.untyped_storage().data_ptr() not in places


def test_large_batches_go_through_the_model_in_quick_chunks_and_small_ones_together():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    model = Watched(3, 2)
    x, y = torch.zeros(2500, 3), torch.zeros(2500).long()
    single = zip(x[2000:].split(1), y[2000:].split(1), strict=True)
    objective = Objective(model, F.cross_entropy, [(x[:2000], y[:2000]), *single])
    seen.clear()
    objective.gradient(objective.weights)
    assert seen == [1024, 1024, 452]


def test_the_size_of_a_graph_is_that_of_what_it_saves_beside_data_and_weights():
    given = problem("tanh_mlp")
    objective = given.objective()
    size = objective.work.graph
    (term,) = objective.work.terms
    with graph_measured(without=[objective.weights, *objective.batches[0]]) as exact:
        leaf = objective.weights.detach().requires_grad_()
        slope = torch.autograd.grad(term.loss(leaf), leaf, create_graph=True)[0]
    assert slope.requires_grad
    assert size.of(term) == pytest.approx(exact.num_bytes, rel=0.25)


class Watched(nn.Sequential):
    """Remembers how many examples came through together."""

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


def test_losses_gradients_and_products_go_in_chunks_of_their_own(monkeypatch):
    monkeypatch.setattr("landscape.work.QUICK_BYTES", 1000)  # 136 an example
    monkeypatch.setattr("landscape.work.GRADIENT_BYTES", 2000)  # 56 an example
    monkeypatch.setattr("landscape.work.LOSS_BYTES", 500)
    monkeypatch.setattr("landscape.work.LEAST_FOR_LOSS", 5)
    given, Watched.seen = problem("tanh_mlp"), []
    x, y = given.x.repeat(5, 1), given.y.repeat(5)  # 65 examples
    objective = Objective(Watched(*given.model), given.loss, [(x, y)])
    whole = Objective(given.model, given.loss, [(x, y)], chunk_size=65)
    w = objective.weights + 0.1
    work = objective.work
    assert (work.chunk_size, work.gradient_size, work.loss_size) == (4, 32, 8)
    hessian = HessianOperator(objective, weights=w)
    for ask, expected, size in (
        (lambda: objective.loss(w), whole.loss(w), 8),
        (lambda: objective.gradient(w), whole.gradient(w), 32),
        (lambda: hessian.apply(w), whole.hvp(w, w), 4),
    ):
        Watched.seen.clear()
        assert torch.allclose(ask(), expected, rtol=1e-11, atol=1e-14)
        number = 65 // size
        assert Watched.seen[: number + 1] == [size] * number + [65 - number * size]


def test_what_gradients_keep_stays_below_its_bytes(monkeypatch):
    monkeypatch.setattr("landscape.work.GRADIENT_BYTES", 4000)
    given = problem("tanh_mlp")
    objective = Objective(given.model, given.loss, [(given.x.repeat(10, 1), given.y.repeat(10))])
    term = objective.work.gradient_terms[0]
    with graph_measured(without=[objective.weights, *term.batch]) as graph:
        loss = term.loss(objective.weights.detach().requires_grad_())
    assert loss.requires_grad
    assert graph.num_bytes <= 4000 < 2.5 * graph.num_bytes  # a power of two


def test_chunks_are_powers_of_two_whose_graphs_stay_in_the_caches():
    assert GraphSize(0, QUICK_BYTES / 100).chunk(QUICK_BYTES) == 64
    assert GraphSize(0, 1).chunk(QUICK_BYTES) == MOST_EXAMPLES
    assert GraphSize(0, 2 * QUICK_BYTES).chunk(QUICK_BYTES) == 1


def test_a_term_is_halved_down_to_one_example():
    given = problem("tanh_mlp")
    term = Term(given.objective()._definition, (given.x, given.y))
    assert sizes(half.batch for half in halves(term)) == [6, 7]
    with pytest.raises(MemoryError, match="no memory for the graph of a single example"):
        halves(Term(term.definition, (given.x[:1], given.y[:1])))


def test_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_out_of_memory(found.value)
    assert is_out_of_memory(torch.OutOfMemoryError("..."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_what_is_available_is_positive_and_below_what_a_machine_has():
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**45


def test_a_job_with_a_limit_of_its_own_has_what_is_left_of_that(tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.memory._CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_bytes(torch.device("cpu")) == 4_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(torch.device("cpu")) > 4_000_000


def test_bytes_in_words():
    assert [in_words(n) for n in (5, 2048, 3 * 2**30, 2**42)] == ["5 bytes", "2.0 KiB", "3.0 GiB", "4096.0 GiB"]


def test_what_was_measured_is_freed_also_where_operations_save_their_own_output():
    w = normal(50).requires_grad_()
    with graph_measured() as graph:
        kept = w.tanh()
        loss = kept.square().sum()
    assert graph.num_bytes >= 400
    gone = weakref.ref(kept)
    del kept, loss
    assert gone() is None


def test_graphs_that_are_measured_can_be_differentiated_twice():
    w = normal(5).requires_grad_()
    with graph_measured():
        (slope,) = torch.autograd.grad(w.tanh().sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), w)
    t = torch.tanh(w.detach())
    assert torch.allclose(second, -2 * t * (1 - t.square()), rtol=1e-12)
