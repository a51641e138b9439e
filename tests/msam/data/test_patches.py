"""Signal and noise: drawn as published, and told apart exactly."""

from __future__ import annotations

import math

import pytest
import torch
from commands import refused
from torch.nn import functional

from landscape import GradientAscent
from msam import Run, TrainConfig, load_task, mSAM, train
from msam.data import signal_and_noise
from msam.models import PatchNet

MU = torch.zeros(30, dtype=torch.float64).index_fill(0, torch.tensor([3]), 2.0)


def draw(number=7, **settings):
    return signal_and_noise(number, signal=MU, **{"patches": 3, "seed": 0} | settings)


def test_one_patch_is_the_signal_of_the_true_label_and_all_others_the_same_noise():
    drawn = draw(50)
    for x, label, xi in zip(drawn.examples.inputs, drawn.examples.targets, drawn.noises, strict=True):
        is_signal = (x == (2 * label - 1) * MU).all(dim=1)
        assert is_signal.sum() == 1
        assert torch.equal(x[~is_signal], xi.expand(2, -1))
    places = {int((x.abs().sum(dim=1) == 2).nonzero()) for x in drawn.examples.inputs}
    assert places == {0, 1, 2}
    assert drawn.noises.std().item() == pytest.approx(1, abs=0.1)
    assert draw(50, noise=3.0).noises.std().item() == pytest.approx(3, abs=0.3)


def test_flipped_labels_leave_the_signal_where_it_was():
    clean, noisy = draw(400), draw(400, label_noise=0.25)
    assert torch.equal(clean.examples.inputs, noisy.examples.inputs)
    flipped = (clean.examples.targets != noisy.examples.targets).double().mean().item()
    assert flipped == pytest.approx(0.25, abs=0.07)


def test_the_network_is_that_of_the_source():
    net, drawn = PatchNet(30, filters=4, deviation=0.5).double(), draw()
    for x, y, out in zip(drawn.examples.inputs, drawn.examples.targets, net(drawn.examples.inputs), strict=True):
        f = [sum(max(float(w @ patch), 0) for w in net.filters[j].detach() for patch in x) / 4 for j in (0, 1)]
        assert out.tolist() == pytest.approx(f, rel=1e-12)
        logistic = math.log1p(math.exp(-(2 * int(y) - 1) * (f[1] - f[0])))
        assert functional.cross_entropy(out, y).item() == pytest.approx(logistic, rel=1e-9)


def test_alignments_are_the_part_of_the_best_filter_along_the_direction():
    drawn = draw(2)
    unit = MU / 2
    filters = torch.zeros(2, 2, 30, dtype=torch.float64)
    filters[0, 1], filters[1, 0] = -3 * unit, 5 * unit
    found = drawn.alignments(filters)
    assert found["signal_alignment"] == pytest.approx(4)
    filters[:] = 0
    for i, label in enumerate(drawn.examples.targets):
        filters[label, 1] += (i + 1) * drawn.noises[i] / drawn.noises[i].norm()
    expected = [
        max(0.0, float(filters[y, 1] @ xi / xi.norm()))
        for y, xi in zip(drawn.examples.targets, drawn.noises, strict=True)
    ]
    assert drawn.alignments(filters)["noise_alignment"] == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_steps_of_msam_lie_in_the_span_of_signal_and_noises_and_are_taken_apart_exactly():
    drawn = draw(patches=2)
    torch.manual_seed(0)
    net = PatchNet(30, filters=3, deviation=0.1).double()
    initial = net.filters.clone()
    optimizer = mSAM(
        torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9), GradientAscent(0.1), num_microbatches=3, module=net
    )
    examples = drawn.examples
    for _ in range(20):
        optimizer.step(lambda b: functional.cross_entropy(net(b[0]), b[1]), (examples.inputs, examples.targets))
    gamma, rho, rest = drawn.decomposed(net.filters, initial)
    assert rest.max() < 1e-12
    assert gamma.abs().max() > 0.1
    signs = torch.tensor([-1.0, 1.0]).double()
    rebuilt = (
        initial
        + signs[:, None, None] * gamma[..., None] * MU / 4
        + torch.einsum("jri,id->jrd", rho, drawn.noises / drawn.noises.square().sum(dim=1, keepdim=True))
    )
    assert torch.allclose(rebuilt, net.filters, atol=1e-12)


def test_too_many_examples_cannot_be_taken_apart():
    drawn = draw(30)
    with pytest.raises(ValueError, match="30 noises and a signal are not unique in 30 dimensions"):
        drawn.decomposed(torch.zeros(2, 1, 30), torch.zeros(2, 1, 30))


@pytest.mark.parametrize(
    "wrong", [{"number": 0}, {"patches": 1}, {"noise": 0.0}, {"noise": float("inf")}, {"label_noise": 1.5}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="signal patches take at least one example"):
        draw(**wrong)


@pytest.mark.parametrize(
    ("task", "setting", "sentence"),
    [
        ("patches", "signal", "signal and dim must be positive, finite numbers; got {}"),
        ("patches", "deviation", "deviation must be a number of 0 or more; got 1, 10 and {}"),
        ("kernel", "noise", "noise of 0 or more, a finite number; got 50, 500, 1, 0.2 and {}"),
    ],
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_that_is_none_is_wrong_usage(task, setting, sentence, value, tmp_path):
    found = refused(f"train --task {task} --set {setting}={value} --out {tmp_path}/a", status=2)
    assert sentence.format(value) in found
    assert not (tmp_path / "a").exists()


def test_a_run_watches_both_alignments(tmp_path):
    settings = {"dim": 40, "test_examples": 50, "train_examples": 10}
    config = TrainConfig(task="patches", settings=settings, epochs=30, batch_size=10, lr=0.3, schedule="constant")
    task = load_task("patches", settings)
    run = train(task, config, Run.create(tmp_path / "run", config))
    rows = run.metrics()
    assert rows[-1]["signal_alignment"] > rows[0]["signal_alignment"] > 0
    weights = next(run.load_model(task).parameters()).view(2, 10, 40)
    again = load_task("patches", settings)
    assert rows[-1] | again.probed(run.load_model(again)) == pytest.approx(rows[-1], rel=1e-6)
    assert weights.shape == (2, 10, 40)
    assert rows[-1]["test_accuracy"] > 0.9
