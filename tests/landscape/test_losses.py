"""What torch says of targets that do not fit is a sentence with both; other errors are left as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import Objective
from landscape.losses import loss_of

OUTPUTS = torch.zeros(3, 4)


@pytest.mark.parametrize("target", [4, -1])
@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss()])
def test_a_target_that_is_no_class_is_named_with_the_classes(target, loss):
    targets = torch.tensor([0, target, 3])
    words = rf"the target {target} is none of the classes 0 to 3 that outputs \(3, 4\) are for; mend the targets"
    with pytest.raises(ValueError, match=words):
        loss_of(loss, OUTPUTS, targets)
    with pytest.raises(ValueError, match=words):
        Objective(nn.Linear(2, 4), loss, [(torch.ones(3, 2), targets)])


def test_shapes_that_do_not_fit_are_both_said():
    with pytest.raises(ValueError, match=r"outputs \(3, 5, 4\) and targets \(3, 5\): .* pass forward=.*\[:, 1:\]"):
        loss_of(functional.cross_entropy, torch.zeros(3, 5, 4), torch.zeros(3, 5, dtype=torch.long))


@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss()])
def test_outputs_that_are_no_tensor_are_refused_with_the_way_out(loss):
    outputs = (OUTPUTS, OUTPUTS)
    for each, targets in ((loss, torch.zeros(3, dtype=torch.long)), (functional.mse_loss, OUTPUTS)):
        with pytest.raises(TypeError, match=r"takes a tensor, and the model returns a tuple; pass forward=lambda"):
            loss_of(each, outputs, targets)
    with pytest.raises(ValueError, match="Expected input batch_size"):
        loss_of(lambda outputs, y: loss(outputs[0], y), outputs, torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match="unexpected keyword"):
        loss_of(lambda outputs, y: loss(outputs[0], y, no=1), outputs, torch.zeros(2, dtype=torch.long))


def test_other_errors_are_left_as_they_are():
    with pytest.raises(IndexError, match="list index out of range"):
        loss_of(lambda outputs, targets: [][0], OUTPUTS, torch.zeros(3))
    assert loss_of(lambda outputs, targets: outputs.sum(), OUTPUTS, None) == 0


@pytest.mark.parametrize("found", [torch.zeros(2, 4), (torch.zeros(3, 4),), None])
def test_a_forward_that_returns_no_pair_is_refused(found):
    with pytest.raises(TypeError, match=r"forward must return a pair, \(outputs, targets\); got a"):
        Objective(nn.Linear(2, 4), functional.cross_entropy, [torch.ones(3, 2)], forward=lambda model, batch: found)
