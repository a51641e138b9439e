"""Mistakes that implementations of SAM have been caught at, where no other file asks about them."""

from __future__ import annotations

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from landscape import FriendlyAscent, GradientAscent
from msam import mSAM
from msam.distributed import Distributed


class StochasticDepth(nn.Module):
    """A residual branch that is left out half of the time; ``taken`` says when it was not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.taken = []

    def forward(self, x):
        h = self.first(x).tanh()
        self.taken.append(bool(torch.rand(()) < 0.5))
        return self.last(h + self.branch(h) if self.taken[-1] else h)


@pytest.mark.parametrize("seed", [None, 3])
def test_both_passes_of_a_microbatch_take_the_same_branches(seed, make_batch):
    model = StochasticDepth().double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(0.3), num_microbatches=5, module=model, seed=seed)
    for step in range(4):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), make_batch(11, seed=step))
    assert model.taken[::2] == model.taken[1::2]
    assert len(set(model.taken)) == 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_keeps_its_momentum_and_goes_on_counting_step_after_step(momentum, make_batch):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=momentum), nn.Linear(5, 3)).double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = mSAM(sgd, GradientAscent(0.3), num_microbatches=3, module=model)
    means = []
    for step in range(1, 5):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), make_batch(11, seed=step))
        means.append(tuple(model[1].running_mean.tolist()))
        assert model[1].momentum == momentum
        assert model[1].num_batches_tracked == 3 * step
    assert len(set(means)) == 4


def test_a_step_that_overflows_teaches_nothing(make_net, make_batch, closure_of):
    model = make_net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    ascent = FriendlyAscent(0.3)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), ascent, num_microbatches=3, scaler=scaler)
    optimizer.step(closure_of(model), make_batch(11))
    learnt = [part.clone() for part in ascent.momentum]
    calls = []

    def overflows(batch):
        calls.append(1)
        return closure_of(model)(batch) * (1e308 if len(calls) == 3 else 1.0) * (1e3 if len(calls) == 3 else 1.0)

    optimizer.step(overflows, make_batch(11, seed=1))
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(a, b) for a, b in zip(ascent.momentum, learnt, strict=True))


@pytest.mark.parametrize("observes", [False, True])
def test_processes_sum_once_per_step_and_once_more_for_a_report(
    observes, tmp_path, monkeypatch, make_net, make_batch, closure_of
):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        said = []
        for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier", "reduce", "gather"):
            plain = getattr(torch.distributed, name)
            told = lambda *a, name=name, plain=plain, **k: said.append(name) or plain(*a, **k)  # noqa: E731
            monkeypatch.setattr(torch.distributed, name, told)
        model = make_net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        ascent = FriendlyAscent(0.3)  # what is learnt is summed along with the rest
        settings = {"num_microbatches": 4, "module": model, "observes": observes}
        optimizer = mSAM(sgd, ascent, processes=Distributed(), **settings)
        for seed in range(3):
            optimizer.step(closure_of(model), make_batch(11, seed=seed))
        assert said == ["broadcast"] * 5 + ["all_reduce"] * (6 if observes else 3)
    finally:
        torch.distributed.destroy_process_group()
