"""Data that would fill a device stay where they are, and everything measured on them is the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import classes, normal
from torch import nn
from torch.nn import functional

from landscape import (
    GradientAscent,
    HessianOperator,
    Objective,
    dataset,
    filter_normalized,
    line_slice,
    m_sharpness,
    memory,
    top_eigenvalues,
)
from landscape.batches import concatenate
from landscape.chunks import GraphSize
from landscape.forward import Seam, supervised
from landscape.terms import Definition, Term

N = 43
META = torch.device("meta")  # a device without numbers, for where data are


def data():
    return normal(N, 4), classes(N, 3)


def batches(x, y, size=10):
    return list(zip(x.split(size), y.split(size), strict=True))


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


@pytest.fixture
def streamed(monkeypatch):
    """Makes objectives whose data find no room."""

    def make(*arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(dataset, "available_bytes", lambda device: 0)
            return Objective(*arguments, **settings)

    return make


def answers(objective):
    w = objective.weights
    V = torch.randn(len(w), 2, generator=torch.Generator().manual_seed(0))
    yield objective.loss(w)
    yield objective.gradient(w)
    yield objective.hvp(w, V)
    yield objective.ggn_product(w, V)
    yield torch.tensor(top_eigenvalues(HessianOperator(objective), k=2).eigenvalues.tolist())
    for size in (1, 4):
        yield torch.tensor(m_sharpness(objective, GradientAscent(rho=0.1), microbatch_size=size).per_shard.tolist())
    directions = filter_normalized(objective, seed=0)
    yield torch.tensor(line_slice(objective, directions, coordinates=np.linspace(-1, 1, 3)).losses.tolist())
    sample = objective.sample(17, seed=1)
    yield sample.gradient(w)
    yield torch.stack([shard.loss(w) for shard in objective.shards(7)])


@pytest.mark.parametrize("chunk_size", [None, 8])
def test_answers_are_the_same_to_the_last_bit(streamed, chunk_size):
    x, y = data()
    given = batches(x.float(), y)
    ours = streamed(model(), functional.cross_entropy, given, chunk_size=chunk_size)
    theirs = Objective(model(), functional.cross_entropy, given, chunk_size=chunk_size)
    for one, other in zip(answers(ours), answers(theirs), strict=True):
        assert torch.equal(one, other)
    assert ours.manifest() == theirs.manifest()


def test_data_without_room_are_not_copied_and_others_are(streamed):
    x, y = data()
    given = batches(x.float(), y)
    staying = streamed(model(), functional.cross_entropy, given)
    assert [b[0].data_ptr() for b in staying.batches] == [b[0].data_ptr() for b in given]
    assert staying.work.batches[0][0].data_ptr() == given[0][0].data_ptr()  # put together without a copy
    assert len(staying.work.batches[0][0]) == N
    copied = Objective(model(), functional.cross_entropy, given)
    assert copied.batches[0][0].data_ptr() != given[0][0].data_ptr()


def test_the_room_is_counted_over_all_batches(monkeypatch):
    x, y = data()
    size = sum(part.nbytes for part in (x, y))
    for share, stays in ((0.99, True), (1.0, False)):
        monkeypatch.setattr(dataset, "available_bytes", lambda device, s=share: int(s * size / memory.SHARE_OF_DATA))
        found = Objective(model(torch.float64), functional.cross_entropy, batches(x, y)).batches
        assert (found[-1][0].data_ptr() == x[40:].data_ptr()) == stays


def test_data_that_change_from_pass_to_pass_are_refused_there_too(streamed):
    class Changing:
        def __iter__(self):
            yield torch.randn(5, 4), torch.zeros(5, dtype=torch.long)

    with pytest.raises(ValueError, match="a second pass over the data gave other examples"):
        streamed(model(), functional.cross_entropy, Changing())


def test_a_batch_is_brought_to_the_model_when_it_is_used():
    seam = Seam(nn.Linear(2, 3, device=META), supervised)
    outputs, targets = seam((torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)))
    assert outputs.device == targets.device == META
    here = (torch.zeros(5, 2), torch.zeros(5))
    assert all(a is b for a, b in zip(Seam(nn.Linear(2, 3), supervised).placed(here), here, strict=True))


def test_a_graph_is_charged_with_the_examples_that_are_brought_for_it():
    x, y = data()
    layer = model(torch.float64)
    objective = Objective(layer, functional.cross_entropy, [(x, y)])
    definition: Definition = objective.work.definition
    size = GraphSize(100.0, 10.0)
    assert size.of(Term(definition, (x, y))) == 100 + 10 * N
    elsewhere = (torch.empty(N, 4, device=META), torch.empty(N, dtype=torch.long, device=META))
    assert size.of(Term(definition, elsewhere)) == 100 + 10 * N + N * (4 * 4 + 8)


def test_parts_of_one_tensor_are_put_together_without_a_copy_and_others_with_one():
    x = torch.arange(24.0).view(8, 3)
    joined = concatenate(list(x[1:].split(3)))
    assert joined.data_ptr() == x[1:].data_ptr()
    assert torch.equal(joined, x[1:])
    assert torch.equal(concatenate([x[:1], x[1:2]]), x[:2])
    for parts in ([x[:2], x[3:]], [x[2:], x[:2]], [x[:2], x[:2]], [x[:, 1:][:4], x[:, 1:][4:]], [x[:2], x[2:].clone()]):
        assert torch.equal(concatenate(parts), torch.cat(parts))
        assert concatenate(parts).data_ptr() != parts[0].data_ptr()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no second device here")
def test_on_a_device_answers_are_the_same_to_the_last_bit(streamed):
    device = torch.accelerator.current_accelerator()
    x, y = data()
    given = batches(x.float(), y)
    ours = streamed(model().to(device), functional.cross_entropy, given)
    theirs = Objective(model().to(device), functional.cross_entropy, given)
    assert {part.device.type for batch in ours.batches for part in batch} == {"cpu"}
    w = ours.weights
    for one, other in ((ours.loss(w), theirs.loss(w)), (ours.gradient(w), theirs.gradient(w)), (
        ours.hvp(w, torch.ones_like(w)), theirs.hvp(w, torch.ones_like(w)),
    )):  # fmt: skip
        assert torch.equal(one, other)
