"""Devices are chosen by name, seeded by number, and told apart by what they can do; determinism is put back."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from commands import json_of
from torch import nn

import landscape.precision
from landscape import GGNOperator, HessianOperator, Objective, m_sharpness, top_eigenvalues, trace
from landscape.perturbations import GradientAscent
from landscape.precision import doubled, doubled_copy, has_double, place_of_double, widest
from landscape.trajectories import trajectory_plane
from msam import Run, TrainConfig, launched, train
from msam.checkpoints import read_weights
from msam.tasks import Task
from msam.training import choose_device, deterministic


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(cuda, mps, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr("msam.training.torch.ones", lambda *_, device: torch.zeros(1))
    assert choose_device("auto") == torch.device(chosen)
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_a_device_that_torch_knows_and_the_machine_lacks_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"there is no device 'mps' here \(.*\); try 'cpu'"):
        choose_device("mps")


def test_processes_that_cannot_exchange_are_told_so(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr("msam.training.choose_device", lambda name: torch.device("mps"))
    with pytest.raises(ValueError, match="cuda or cpu devices; got 'mps'; try 'cpu'"), launched("auto"):
        pass


@pytest.fixture
def single(monkeypatch):
    """The meta device plays one without double precision; what is computed is on the CPU and stays in single there."""
    zeros = torch.zeros

    def refusing(*sizes, dtype=None, device=None):
        if dtype == torch.float64 and torch.device(device).type == "meta":
            raise TypeError("Cannot convert a tensor to float64")
        return zeros(*sizes, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "zeros", refusing)
    has_double.cache_clear()
    yield torch.device("meta")
    has_double.cache_clear()


def test_double_precision_is_where_it_can_be(single):
    cpu = torch.device("cpu")
    assert (has_double(cpu), has_double(single)) == (True, False)
    assert (widest(cpu), widest(single)) == (torch.float64, torch.float32)
    assert (place_of_double(cpu), place_of_double(single)) == (cpu, cpu)
    numbers = torch.tensor([1.0, 2.0])
    assert doubled(numbers).dtype == doubled_copy(numbers).dtype == torch.float64
    assert doubled_copy(torch.tensor([1, 2])).dtype == torch.int64


def test_a_device_without_double_precision_computes_in_single_and_certifies_on_the_cpu(monkeypatch, make_net):
    """Sums in single precision differ in rounding only."""
    model = make_net(torch.float32)
    data = [(torch.randn(n, 4), torch.arange(n) % 3) for n in (5, 3)]

    def answers():
        objective = Objective(model.eval(), nn.functional.cross_entropy, data)
        w, hessian = objective.weights, HessianOperator(objective)
        return [
            float(objective.loss(w)),
            float(top_eigenvalues(GGNOperator(objective), k=1).eigenvalues[0]),
            trace(hessian, num_probes=6).estimate,
            m_sharpness(objective, GradientAscent(rho=0.1), microbatch_size=3).value,
            *trajectory_plane(objective, [w + 1, 2 * w, w - w.flip(0)]).path.ravel(),
        ]

    expected = answers()
    monkeypatch.setattr(landscape.precision, "has_double", lambda device: False)
    assert answers() == pytest.approx(expected, rel=1e-4)


def state_of_torch():
    cudnn = torch.backends.cudnn
    mode = torch.get_deterministic_debug_mode()
    return mode, cudnn.benchmark, cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_determinism_is_for_as_long_as_it_is_asked_for(workspace, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = state_of_torch()
    with deterministic():
        assert state_of_torch() == (2, False, True, workspace or ":4096:8")
    assert state_of_torch() == before
    with pytest.raises(RuntimeError, match=r"^key$"), deterministic():
        raise RuntimeError("key")
    assert state_of_torch() == before
    with deterministic(False):
        assert state_of_torch() == before


def test_a_deterministic_training_on_the_cpu_is_the_training(toy_task, toy_config, tmp_path):
    before, runs, seen = state_of_torch(), [], []

    def forward(model, batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return model(batch[0]), batch[1]

    task = dataclasses.replace(toy_task, forward=forward)
    for wanted in (False, True):
        config = toy_config(deterministic=wanted)
        runs.append(train(task, config, Run.create(tmp_path / str(wanted), config)))
        assert state_of_torch() == before
    first, second = (read_weights(run.checkpoint) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)


def test_a_model_that_cannot_be_deterministic_is_refused_with_the_operation(toy_task, toy_config, tmp_path):
    class Unpooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.unpool, self.head = nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.unpool(*self.pool(x[:, None]))[:, 0])

    task = Task("toy", Unpooled, toy_task.loss, toy_task.train, toy_task.test, "")
    config, before = toy_config(deterministic=True), state_of_torch()
    with pytest.raises(ValueError, match=r"max_unpooling2d.* deterministic implementation.*; train without determ"):
        train(task, config, Run.create(tmp_path / "run", config))
    assert state_of_torch() == before
    train(task, toy_config(epochs=1), Run.create(tmp_path / "other", toy_config(epochs=1)))


def test_the_command_line_records_it_and_older_configs_are_without(tmp_path):
    words = "train --set train_examples=20 --set hidden=3 --batch-size 10 --epochs 1"
    answer = json_of(f"{words} --deterministic --out {tmp_path}/run")
    assert answer["config"]["deterministic"] is True
    config = Run.open(tmp_path / "run").config
    assert config.deterministic
    assert dataclasses.replace(config, deterministic=False).identity != config.identity
    with pytest.raises(ValueError, match="deterministic must be of type bool; got 1"):
        TrainConfig(deterministic=1)
