"""The global batch of what several processes have loaded, and what tells that they were given different ones."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from msam.parts import checksum, gathered
from msam.processes import OneProcess

COLUMNS = {
    "float32": torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1)),
    "float64": torch.arange(15.0, dtype=torch.float64).reshape(5, 3),
    "bfloat16": torch.arange(5, dtype=torch.bfloat16),
    "bytes": torch.arange(15, dtype=torch.uint8).reshape(5, 3),
    "boolean": torch.tensor([True, False, False, True, True]),
    "strided": torch.arange(20.0).reshape(4, 5).T,
    "an odd place": torch.arange(18.0).reshape(6, 3)[1:],
    "an odd place of whole words": torch.arange(11.0)[1:].reshape(5, 2),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_checksum_tells_every_example_and_their_order(name):
    column = COLUMNS[name]
    batch = {"x": column, "n": torch.tensor(3)}
    assert int(checksum(batch)) == int(checksum({"x": column.clone(), "n": torch.tensor(3)})) < 2**24
    assert int(checksum(batch)) != int(checksum({"x": column.flip(0), "n": torch.tensor(3)}))
    assert int(checksum(batch)) != int(checksum({"x": column, "n": torch.tensor(4)}))
    assert int(checksum(batch)) != int(checksum({"x": torch.tensor(3), "n": column}))
    for row in range(5):
        other = column.clone()
        other[row] = ~other[row] if column.dtype == torch.bool else other[row] + 1
        assert int(checksum(batch)) != int(checksum({"x": other, "n": torch.tensor(3)}))


def test_a_checksum_needs_nothing_in_the_rows():
    assert int(checksum(torch.zeros(3, 0))) == 0


def group_of(parts):
    """What the processes of a group are given by ``gathered``, each for its part; threads stand in for them."""
    here, meeting, sent = threading.local(), threading.Barrier(len(parts)), [None] * len(parts)

    def from_all(tensor):
        sent[here.rank] = tensor.clone()
        meeting.wait(timeout=10)
        found = list(sent)
        meeting.wait(timeout=10)
        assert all(other.shape == tensor.shape for other in found)  # as the libraries want it
        return found

    def process(rank):
        here.rank = rank
        return gathered(parts[rank], from_all)

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(process, range(len(parts))))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_parts_of_a_distributed_sampler_come_to_the_batches_of_one_process(number):
    data = TensorDataset(*COLUMNS.values()) if number == 1 else TensorDataset(torch.arange(42.0), torch.arange(42))
    samplers = [DistributedSampler(data, number, rank, seed=5) for rank in range(number)]
    loaders = [DataLoader(data, 12 // number, sampler=sampler) for sampler in samplers]
    whole = DataLoader(data, 12, sampler=DistributedSampler(data, 1, 0, seed=5))
    for *parts, expected in zip(*loaders, whole, strict=True):
        for got in group_of(parts):
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, expected, strict=True))


def test_parts_of_other_lengths_are_dealt_out_in_turn_and_everything_keeps_its_place():
    parts = [
        {
            "x": torch.tensor([[0, 0], [2, 0], [4, 0]]),
            "y": (torch.tensor([0.0, 2.0, 4.0]), "name"),
            "n": torch.tensor(0),
        },
        {"x": torch.tensor([[1, 0]]), "y": (torch.tensor([1.0]), "other"), "n": torch.tensor(1)},
        {"x": torch.empty(0, 2, dtype=torch.long), "y": (torch.empty(0), "none"), "n": torch.tensor(2)},
    ]
    for rank, got in enumerate(group_of(parts)):
        assert got["x"].tolist() == [[0, 0], [1, 0], [2, 0], [4, 0]]
        assert got["y"][0].tolist() == [0.0, 1.0, 2.0, 4.0]
        assert got["y"][1] == parts[rank]["y"][1]
        assert got["n"] == rank


@pytest.mark.parametrize(
    "other", [torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.long), (torch.zeros(2, 3), torch.zeros(2))]
)
def test_parts_of_other_shapes_are_refused(other):
    with pytest.raises(ValueError, match="the parts of a batch cannot be put together: on this process an example is"):
        group_of([torch.zeros(2, 3), other])


def test_texts_are_not_exchanged_in_silence():
    with pytest.raises(ValueError, match="processes exchange tensors, and no lists of texts or the like"):
        group_of([(torch.zeros(2, 3), ["a", "b"]), (torch.zeros(2, 3), ["c", "d"])])


def test_one_process_has_the_global_batch():
    batch = torch.zeros(3)
    assert OneProcess().gathered(batch) is batch
