"""Steps that processes share, without a second one: it is stood in for by what it would add to the sum."""

from __future__ import annotations

import contextlib
import pickle

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from landscape.processes import ProcessLostError
from msam import Distributed, mSAM


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


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"rho": 0.2}, r"different radii: \[0.1, 0.2\]; give all the same settings, and let each of them load"),
        ({"seed": 5}, "different seeds"),
        ({"lr": 0.3}, "different learning rates"),
        ({"scale": 4.0}, r"different scales of the loss: \[0.0, 4.0\]"),
        ({"resumed": True}, r"of which the optimizer has a state: \[0.0, 4.0\]"),
        ({"steps": 1}, r"numbers of steps taken: \[0.0, 1.0\]"),
    ],
    ids=lambda changed: next(iter(changed)) if isinstance(changed, dict) else "",
)
def test_processes_that_would_take_other_steps_are_told(
    changed, sentence, alone, monkeypatch, make_net, make_batch, closure_of
):
    """As where the first alone has loaded a checkpoint."""

    def step(model, *, rho=0.1, seed=0, lr=0.1, scale=None, resumed=False, steps=0):
        sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        if resumed:
            closure_of(model)(make_batch(11)).backward()
            sgd.step()
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = mSAM(sgd, GradientAscent(rho), module=model, processes=alone, seed=seed, scaler=scaler)
        optimizer.steps = steps
        return optimizer.step(closure_of(model), make_batch(11))

    model = make_net()
    require_told(sentence, alone, monkeypatch, lambda: step(make_net(), **changed), lambda: step(model), model)


def test_a_process_that_trains_other_weights_than_the_first_says_so(alone, monkeypatch, make_net, make_batch):
    firsts, frozen = [], make_net()
    frozen[0].requires_grad_(False)
    with monkeypatch.context() as patch:
        patch.setattr(alone, "take_from_first", lambda tensors: firsts.append([t.clone() for t in tensors]))
        stepped(make_net(), make_batch(11), 2, alone)
    hand_out = lambda tensors: [t.copy_(first) for t, first in zip(tensors, firsts[0], strict=True)]  # noqa: E731
    monkeypatch.setattr(alone, "take_from_first", hand_out)
    with pytest.raises(ValueError, match="this process trains weights of other numbers or shapes than the first"):
        stepped(frozen, make_batch(11), 2, alone)


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
    assert handed == [1, 4, 1, 6 + 3]  # a checksum; with what is frozen, and buffers
    monkeypatch.undo()
    stepped(second, make_batch(11), 3, pickle.loads(pickle.dumps(alone)))
