"""Loss and accuracy on data, with the model left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from msam import Evaluation, evaluate
from msam.data import Examples


def identity_examples(number, right):
    """Scores that are right for the first ``right`` examples; with the identity as the model."""
    targets = torch.arange(number) % 3
    guesses = torch.where(torch.arange(number) < right, targets, (targets + 1) % 3)
    return Examples(functional.one_hot(guesses, 3).double(), targets)


def test_accuracy_and_loss_are_means_over_examples_also_with_a_ragged_last_batch():
    examples = identity_examples(1003, right=1000)  # batches of 1,000 and of 3, which are all wrong
    found = evaluate(nn.Identity(), functional.cross_entropy, examples)
    expected = functional.cross_entropy(examples.inputs, examples.targets).item()
    assert found.accuracy == 1000 / 1003
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.num_examples == 1003


@pytest.mark.parametrize(("accuracy", "expected"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.05)])
def test_the_standard_error_is_binomial(accuracy, expected):
    assert Evaluation(loss=1.0, accuracy=accuracy, num_examples=100).accuracy_stderr == pytest.approx(expected)


def test_it_is_measured_in_evaluation_mode_and_each_module_gets_its_mode_back(make_net, make_batch):
    model = make_net(torch.float64, nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    statistics, state = model[1].running_mean.clone(), torch.get_rng_state()
    found = evaluate(model, functional.cross_entropy, Examples(*make_batch(11)))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == evaluate(model.eval(), functional.cross_entropy, Examples(*make_batch(11)))


def test_modes_come_back_after_an_error_and_no_gradient_is_left(make_net, make_batch):
    model = make_net().train()

    def failing(outputs, targets):
        assert not outputs.requires_grad
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        evaluate(model, failing, Examples(*make_batch(11)))
    assert all(module.training for module in model.modules())
