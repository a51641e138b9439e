"""What benchmarks are measured against does what it says, and on networks of the sizes that are stated."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import closure_of, net
from torch.nn import functional

from benchmarks import harness, nets, steps, training
from benchmarks.sam import TwoStepSAM
from landscape import GradientAscent
from msam import mSAM


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_published_sam_takes_the_steps_of_one_micro_batch(name):
    model, batch = net(name)
    other = copy.deepcopy(model)
    published = TwoStepSAM(torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9), 0.1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ours = mSAM(sgd, GradientAscent(rho=0.1), module=model)
    for _ in range(3):
        ours.step(closure_of(model), batch)
        published.step(lambda: functional.cross_entropy(other(batch[0]), batch[1]))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_networks_have_the_sizes_that_are_stated():
    sizes = {nets.mlp: 173_614, nets.vit: 175_738, nets.resnet20: 272_474, nets.resnet20_batch_norm: 272_474}
    for build, number in sizes.items():
        assert sum(p.numel() for p in build().parameters()) == number
        assert f"{number:,} weights" in (build.__doc__ or "")


def test_executions_are_held_against_each_other_before_they_are_timed():
    problem = steps.PROBLEMS["MLP"]
    steps.require_equal(problem, ["Layerwise", "Vectorised"], 8, "cpu")


def test_ratios_are_taken_within_rounds(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    seconds = iter([9.0, 1.0, 1.0, 2.0, 2.0, 8.0, 4.0, 12.0])  # the first of each does not count

    def run():
        clock[0] += next(seconds)

    ratios, _ = harness.compare({"a": run, "b": run}, rounds=3, reference="a")
    assert ratios == {"a": harness.Ratio(1, 1, 1), "b": harness.Ratio(2, 3, 4)}


def test_the_interval_of_a_median_holds_it_as_often_as_is_said():
    draws = torch.empty(4000, 15).exponential_(generator=torch.Generator().manual_seed(0)).tolist()
    found = [harness.Ratio.of(row) for row in draws]
    median = math.log(2)  # of that distribution
    held = sum(ratio.low <= median <= ratio.high for ratio in found) / len(found)
    assert abs(held - 0.9648) < 0.012  # 1 - 2 P(at most 3 of 15 tosses); 0.8815 with the next values in order
    few = harness.Ratio.of([3.0, 1.0, 2.0, 9.0, 4.0])
    assert (few.low, few.median, few.high) == (1.0, 3.0, 9.0)
    assert str(few / 2) == "1.50 (0.50 to 4.50)"


def test_peak_memory_is_counted_to_the_byte():
    problem = steps.Problem(lambda: torch.nn.Linear(1000, 500, bias=False), (1000,), {1: None})
    weights, images, outputs = 4 * 1000 * 500, 4 * 1000 * steps.BATCH, 4 * 500 * steps.BATCH
    # w, momentum and gradient, the batch with its labels, and when the last is made the gradient of the outputs
    expected = 3 * weights + images + 8 * steps.BATCH + outputs
    assert 0 <= steps.peak_memory(problem, "SGD", 1, "cpu") * 2**20 - expected <= 64
    expected += weights + torch.get_rng_state().numel()  # a copy of w, and the random state
    assert 0 <= steps.peak_memory(problem, "OneByOne", 1, "cpu") * 2**20 - expected <= 64


def test_steps_take_at_most_one_and_a_half_times_the_memory_of_sam():
    problem = steps.PROBLEMS["MLP"]
    of_sam = steps.peak_memory(problem, "SAM, two steps", 1, "cpu")
    assert steps.peak_memory(problem, "OneByOne", 1, "cpu") <= 1.05 * of_sam
    assert steps.peak_memory(problem, "OneByOne", 8, "cpu") <= 1.5 * of_sam
    assert steps.peak_memory(problem, "Layerwise", 8, "cpu") <= 1.1 * of_sam


def test_targets_are_those_of_the_quickest_and_memory_that_of_all():
    problem = steps.Problem(nets.mlp, (1, 8, 8), {1: 2.1, 8: 2.3}, gains={8: 3})
    costs = {"OneByOne": 9.0, "Layerwise": 2.2, "Vectorised": 4.0}
    assert training.verdicts(problem, 8, "Layerwise", costs, 1.6) == (
        "met: cost ≤ 2.3, ≥ 3 times faster; missed: memory ≤ 1.5"
    )
    assert training.verdicts(problem, 8, "OneByOne", costs, 1.0) == "met: memory ≤ 1.5"
    costs = {"SAM, two steps": 2.04, "SAM, pytorch_optimizer": 2.2, "OneByOne": 2.05, "Layerwise": 1.9}
    assert training.verdicts(problem, 1, "OneByOne", costs, 1.0) == (
        "met: memory ≤ 1.5, cost ≤ 2.1, ≤ SAM, pytorch_optimizer; missed: ≤ SAM, two steps"
    )
