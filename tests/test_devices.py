"""Every question has the same answer on every device, and makes no tensor where torch would by default."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from placed import Problem, numbers_of
from questions import DRAWN_THERE, MIXED, QUESTIONS

from analyses.protocol import Protocol
from analyses.subject import Subject
from landscape.precision import has_double
from msam import Run, TrainConfig, train
from msam.checkpoints import read_weights
from msam.replay import RandomState

TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3}  # of the largest number of an answer: what rounding makes of it
MIXED_TOLERANCE = 5e-2
ALL = {**QUESTIONS, **MIXED, **DRAWN_THERE}


@functools.cache
def on_the_cpu(name, dtype):
    return [*numbers_of(ALL[name](problem("cpu", dtype)))]


problem, problem_there = functools.cache(Problem), functools.cache(Problem)  # apart also where both are on the CPU


@pytest.fixture(autouse=True)
def _without_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def there(name, device, dtype):
    """The answer on a device, where a tensor that is made anywhere else has no numbers in it."""
    with torch.device("meta"):
        answer = ALL[name](problem_there(device, dtype))
    return [*numbers_of(answer)]


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert torch.isfinite(theirs).all()
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=tolerance)


@pytest.mark.filterwarnings("ignore:micro-batches are not computed")
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.gpu)], ids=str)
@pytest.mark.parametrize("name", QUESTIONS)
def test_the_answer_is_that_on_the_cpu_and_no_tensor_is_made_on_the_default_device(name, dtype, device):
    if dtype == torch.float64 and not has_double(torch.device(device)):
        pytest.skip(f"{device} has no double precision")
    assert_close(there(name, device, dtype), on_the_cpu(name, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_comes_to_what_it_does_on_the_cpu(name, device):
    assert_close(there(name, device, torch.float32), on_the_cpu(name, torch.float32), MIXED_TOLERANCE)


@pytest.mark.parametrize("name", DRAWN_THERE)
def test_what_is_drawn_on_the_device_is_finite_and_makes_no_tensor_elsewhere(name, device):
    found = there(name, device, torch.float64 if has_double(torch.device(device)) else torch.float32)
    assert all(torch.isfinite(numbers).all() for numbers in found)
    if device == "cpu":
        assert_close(found, on_the_cpu(name, torch.float64), 1e-12)


def test_a_tensor_on_the_default_device_would_be_found(monkeypatch):
    monkeypatch.setitem(ALL, "wrong", lambda p: p.images.sum() + torch.zeros(3))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        there("wrong", "cpu", torch.float64)


CONFIG = TrainConfig(
    settings={"model": "cnn-bn", "width": 4, "train_examples": 60, "augment": "crop=1+cutout=2+mixup=0.4"},
    batch_size=20,
    num_microbatches=4,
    epochs=2,
    lr=0.02,
)


@pytest.mark.gpu
def test_a_training_and_its_measurement_agree_with_the_cpu(device, tmp_path):
    found = {}
    for place in ("cpu", device):
        run = train(CONFIG.load_task(), CONFIG, Run.create(tmp_path / place.replace(":", ""), CONFIG), device=place)
        subject = Subject(run, Protocol(), device=place)
        w = subject.objective.weights
        found[place] = read_weights(run.checkpoint), float(subject.objective.loss(w)), subject.test.loss
    for name, value in found["cpu"][0].items():
        torch.testing.assert_close(found[device][0][name], value, rtol=2e-2, atol=2e-3)
    assert found[device][1:] == pytest.approx(found["cpu"][1:], rel=2e-2)


@pytest.mark.gpu
def test_deterministic_trainings_come_to_the_same_bits(device, tmp_path):
    config = dataclasses.replace(CONFIG, deterministic=True)
    runs = [train(config.load_task(), config, Run.create(tmp_path / str(i), config), device=device) for i in range(2)]
    first, second = (read_weights(run.checkpoint) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_the_device_is_seeded_and_no_other(device):
    place = torch.device(device)
    drawn = []
    for _ in range(2):
        RandomState.seed(3, place)
        drawn.append(torch.rand(4, device=place))
    assert torch.equal(*drawn)
