"""Arguments of the wrong kind: one sentence that names the argument, what was given, and a way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import quadratic
from spectra import SPECTRA, operator_of
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from landscape import HessianOperator, Objective, filter_normalized, spectral_density, top_eigenvalues, trace

INPUTS = torch.linspace(-1, 1, 10).double().reshape(5, 2)
TARGETS = torch.linspace(0, 1, 5).double()[:, None]
CLASSES = torch.tensor([0, 1, 2, 0, 1])


def objective(*, inputs=INPUTS, targets=TARGETS, loss=functional.mse_loss, model=None, **settings):
    data = [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    return Objective(model or nn.Linear(2, 1).double(), loss, data, **settings)


class Rounded(nn.Linear):
    def forward(self, x):
        return torch.round(super().forward(x))


class Checkpointed(nn.Sequential):
    def __init__(self, *layers, use_reentrant):
        super().__init__(*layers)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return self[1](checkpoint(self[0], x.requires_grad_(), use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_model_that_recomputes_parts_of_itself_says_that_this_is_to_be_switched_off(use_reentrant):
    model = Checkpointed(nn.Linear(2, 3), nn.Linear(3, 1), use_reentrant=use_reentrant).double()
    with pytest.raises(ValueError, match=r"torch.utils.checkpoint.* Switch that off for measuring"):
        objective(model=model, inputs=INPUTS.clone())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"inputs": INPUTS.float()}, "a batch holds float32, float64, and the weights are float64"),
        ({"model": nn.Linear(2, 1)}, r"weights are float32 \(.*\). Convert the inputs, as inputs.to\(torch.float32\)"),
        ({"inputs": (INPUTS * 9).to(torch.uint8)}, "a batch holds uint8, float64"),
        (
            {"inputs": INPUTS.float(), "model": nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 1, 2)).double()},
            "32",
        ),
        (
            {"targets": CLASSES.int(), "loss": functional.cross_entropy, "model": nn.Linear(2, 3).double()},
            "a batch holds float64, int32, .* targets that name classes are torch.long",
        ),
    ],
)
def test_data_of_a_dtype_that_the_model_does_not_take_are_named(given, words):
    with pytest.raises(TypeError, match=words):
        objective(**given)


def test_other_errors_of_a_model_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        objective(model=nn.Linear(3, 1).double())


@pytest.mark.parametrize("name", ["loss", "forward", "denominator"])
def test_what_is_called_must_be_a_function(name):
    with pytest.raises(TypeError, match=f"{name} must be a function of .*; got 3"):
        objective(**{name: 3})


def test_no_loss_is_refused_with_an_example():
    with pytest.raises(
        TypeError, match=r"loss must be a function .* such as torch.nn.functional.cross_entropy; got None"
    ):
        objective(loss=None)


def test_a_pattern_must_be_a_string():
    with pytest.raises(TypeError, match=r"a pattern of their names, such as 'head\.\*'; got 3"):
        objective(parameters=3)
    with pytest.raises(TypeError, match="a pattern of their names"):
        objective().select({"weight"})


@pytest.mark.parametrize("seed", [2**70, 2**64, -(2**63) - 1])
@pytest.mark.parametrize(
    "ask",
    [
        lambda h, seed: top_eigenvalues(h, seed=seed),
        lambda h, seed: trace(h, seed=seed),
        lambda h, seed: spectral_density(h, seed=seed),
        lambda h, seed: filter_normalized(h.objective, seed=seed),
    ],
)
def test_a_seed_beyond_64_bits_is_refused(ask, seed):
    with pytest.raises(ValueError, match=rf"seed must fit into 64 bits, from -2\*\*63 to 2\*\*64 - 1; got {seed}"):
        ask(operator_of(SPECTRA["zero"]), seed)


@pytest.mark.parametrize("seed", [2**64 - 1, -(2**63)])
def test_the_outermost_seeds_are_taken(seed):
    assert top_eigenvalues(operator_of([2.0, 1.0]), seed=seed).eigenvalues == pytest.approx([2.0])


@pytest.mark.parametrize("initial", [np.array([None] * 12, dtype=object), np.array(["a"] * 12)])
def test_a_start_that_holds_no_numbers_is_refused(initial):
    with pytest.raises(TypeError, match=r"initial must hold numbers; got an array of .*\. Use initial.astype\(float\)"):
        top_eigenvalues(operator_of(SPECTRA["zero"]), initial=initial)


def test_a_loss_that_is_flat_in_the_weights_is_remarked_on():
    flat = HessianOperator(objective(model=Rounded(2, 1).double()))
    for found in (top_eigenvalues(flat, 2), trace(flat)):
        for line in found.lines():
            assert line.value == 0
            assert "exactly zero: is the loss flat in the weights, as behind round()" in line.remark


def test_zero_among_other_eigenvalues_is_not_remarked_on():
    singular = HessianOperator(quadratic(torch.diag(torch.tensor([2.0, 0.0, -1.0]).double())))
    for found in (top_eigenvalues(singular, 3), trace(singular)):
        assert not any("zero" in line.remark for line in found.lines())
