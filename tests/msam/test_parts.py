"""The global batch of what several processes have loaded, and what tells that they were given different ones."""

from __future__ import annotations

import contextlib
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from landscape import GradientAscent
from landscape.processes import ProcessLostError
from msam import Distributed, mSAM
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


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Distributed()
    torch.distributed.destroy_process_group()


def test_layers_that_talk_to_other_processes_are_refused(alone):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="SyncBatchNorm would normalise each micro-batch together with another"):
        stepped(model, (torch.randn(6, 4), torch.arange(6) % 3), 2, alone)


OTHERS = [
    (
        lambda x, y: (x.flip(0), y.flip(0)),
        4,
        None,
        "were given different batches of 11 examples; give each the same global",
    ),
    (lambda x, y: (x[:9], y[:9]), 4, None, r"were given batches of \[11, 9\] examples; .*processes\.gathered\(batch\)"),
    (lambda x, y: (x, y), 5, None, r"split their batches into \[4, 5\] micro-batches; give all the same number"),
    (lambda x, y: (x, y), 4, 5.0, "reported a denominator for some micro-batches and none for others"),
]
OBSERVING = [
    (4, True, False, r"processes \[1\] of 2 report on micro-batches; give all the same observes"),
    (4, False, True, r"processes \[0\] of 2 report on micro-batches; give all the same observes"),
    (5, True, True, r"split their batches into \[4, 5\] micro-batches"),  # although their reports are of other lengths
]


def stepped(model, batch, m, processes, denominator=None, *, observes=False):
    """One step, the closure of which may report a denominator."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"num_microbatches": m, "module": model, "processes": processes, "observes": observes}
    optimizer = mSAM(sgd, GradientAscent(0.1), **settings)

    def closure(part):
        loss = functional.cross_entropy(model(part[0]), part[1])
        return loss if denominator is None else (loss, denominator)

    return optimizer.step(closure, batch)


def require_told(sentence, alone, monkeypatch, theirs_is, ours_is, model, error=ValueError):
    """The other process is stood in for by what it would add to the one sum."""
    theirs = []
    alone.rank, alone.number = 1, 2
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda flat, group: theirs.append(flat.clone()))
        with contextlib.suppress(ValueError):  # the sum is not whole
            theirs_is()
    alone.rank = 0
    before = [p.clone() for p in model.parameters()]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat, group: flat.add_(theirs[0]))
    with pytest.raises(error, match=sentence):
        ours_is()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("changed", "m", "denominator", "sentence"), OTHERS)
def test_processes_that_do_not_agree_are_told(
    changed, m, denominator, sentence, alone, monkeypatch, make_net, make_batch
):
    (x, y), model = make_batch(11), make_net()
    other = lambda: stepped(make_net(), changed(x, y), m, alone, denominator)  # noqa: E731
    require_told(sentence, alone, monkeypatch, other, lambda: stepped(model, (x, y), 4, alone), model)


@pytest.mark.parametrize(("m", "theirs", "ours", "sentence"), OBSERVING)
def test_processes_of_which_only_some_report_are_told(
    m, theirs, ours, sentence, alone, monkeypatch, make_net, make_batch
):
    batch, model = make_batch(11), make_net()
    other = lambda: stepped(make_net(), batch, m, alone, observes=theirs)  # noqa: E731
    require_told(sentence, alone, monkeypatch, other, lambda: stepped(model, batch, 4, alone, observes=ours), model)


class Broken(nn.Module):
    """Fails when it is called."""

    def forward(self, x):
        raise ValueError("no more")


def test_where_a_process_fails_in_a_step_the_others_take_none_and_say_so(alone, monkeypatch, make_net, make_batch):
    batch, model, broken = make_batch(11), make_net(), make_net(torch.float64, Broken())
    sentence = "another process failed in this step; the reason is what that one says"
    ours, other = (lambda net=net: stepped(net, batch, 4, alone) for net in (model, broken))
    require_told(sentence, alone, monkeypatch, other, ours, model, ProcessLostError)


def test_a_process_that_fails_says_why_though_another_is_gone(alone, monkeypatch, make_net, make_batch):
    def gone(flat, group):
        raise RuntimeError("[gloo] Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", gone)
    with pytest.raises(ValueError, match="no more"):
        stepped(make_net(torch.float64, Broken()), make_batch(11), 4, alone)
    with pytest.raises(
        ProcessLostError, match=r"another process is gone \(Connection closed by peer\); the last check"
    ):
        stepped(make_net(), make_batch(11), 4, alone)


def test_a_process_without_a_micro_batch_steps_as_the_others_do(alone, monkeypatch, make_net, make_batch):
    """Statistics and weights are those of the one that has it, which reports a denominator."""
    ours, theirs, single = (make_net(torch.float64, nn.BatchNorm1d(5)) for _ in range(3))
    batch, sums = make_batch(11), []
    alone.rank, alone.number = 1, 2
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda flat, group: sums.append(flat.clone()))
        with contextlib.suppress(ValueError):  # the sum is not whole
            stepped(theirs, batch, 1, alone, 4.0)
    alone.rank = 0
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat, group: flat.add_(sums[0]))
    stepped(ours, batch, 1, alone, 4.0)
    stepped(single, batch, 1, None, 4.0)
    for name, value in single.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=0)


def test_weights_in_half_precision_are_summed_in_single(alone, make_net, make_batch):
    ours, single = make_net(torch.bfloat16), make_net(torch.bfloat16)
    batch = make_batch(11, dtype=torch.bfloat16)
    loss, expected = stepped(ours, batch, 3, alone), stepped(single, batch, 3, None)
    assert loss.dtype == torch.bfloat16
    assert torch.equal(loss, expected)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), single.parameters(), strict=True))


def test_every_model_is_handed_out_whole_and_once(alone, monkeypatch, make_net, make_batch):
    handed = []
    monkeypatch.setattr(alone, "take_from_first", lambda tensors: handed.append(len([*tensors])))
    first, second = make_net(), make_net(torch.float64, nn.BatchNorm1d(5))
    first[0].weight.requires_grad_(False)
    for model in (first, first, second, second):
        stepped(model, make_batch(11), 3, alone)
    assert handed == [4, 6 + 3]  # with what is frozen, and buffers
    monkeypatch.undo()
    stepped(second, make_batch(11), 3, pickle.loads(pickle.dumps(alone)))
