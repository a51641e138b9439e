"""Running statistics of several blocks, put one after another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from msam.running import RunningBuffers


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("blocks", [[3, 4], [1, 0, 2, 4], [7], [0, 7]])
@pytest.mark.parametrize("before", [0, 5])
def test_blocks_begun_at_the_same_statistics_come_to_those_of_one_process(momentum, blocks, before):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, momentum=momentum).double()
    batches = torch.randn(12, 6, 3).double()
    for batch in batches[:before]:
        norm(batch)
    alone, kept = copy.deepcopy(norm), RunningBuffers(norm)
    rows, first = [], before
    for length in blocks:
        own = copy.deepcopy(norm)
        buffers = RunningBuffers(own)
        for batch in batches[first : first + length]:
            own(batch)
        rows.append(buffers.row(torch.zeros((), dtype=torch.float64)))
        first += length
    kept.compose(rows)
    for batch in batches[before:first]:
        alone(batch)
    for name, buffer in alone.named_buffers():
        assert torch.allclose(norm.get_buffer(name).double(), buffer.double(), rtol=1e-12), name
        if sum(map(bool, blocks)) == 1:  # to the bit, as on one process
            assert torch.equal(norm.get_buffer(name), buffer), name


def test_other_buffers_are_those_of_the_last_block():
    module = nn.Module()
    module.register_buffer("average", torch.zeros(2))
    kept = RunningBuffers(module)
    rows = []
    for value in (1.0, 2.0):
        own = copy.deepcopy(module)
        buffers = RunningBuffers(own)
        own.average.fill_(value)
        rows.append(buffers.row(torch.zeros(())))
    kept.compose(rows)
    assert module.average.tolist() == [2.0, 2.0]


def test_layers_without_running_statistics_have_none():
    module = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm1d(3))
    kept = RunningBuffers(module)
    kept.compose([kept.row(torch.zeros(()))])
