"""Scores beside the loss: the accuracy of classes and of tokens, and what has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import classes, normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import Accuracy, Objective, accuracy, filter_normalized, line_slice

T = [-1.0, 0.0, 0.5, 3.0]


def model_and_tokens():
    """Outputs (n, classes, length) for tokens of which some are ignored; the last batch has none that count."""
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 1).double()
    inputs, targets = normal(11, 2, 4, seed=1), classes(44, 3, seed=2).view(11, 4)
    targets[2:5, 1:] = -100
    targets[9:] = -100
    return model, ragged(inputs, targets, (6, 3, 2))


def test_the_accuracy_is_the_share_of_right_classes_at_every_point_whatever_the_batches():
    given = problem("tanh_mlp")
    objective = given.objective()
    d = filter_normalized(objective, seed=0)
    result = line_slice(objective, d, coordinates=T, score=accuracy)
    for t, score in zip(T, result.scores, strict=True):
        w = objective.space.unflatten(objective.weights + t * d)
        outputs = torch.func.functional_call(given.model, w, (given.x,))
        assert score == pytest.approx((outputs.argmax(1) == given.y).double().mean().item(), rel=1e-15)
    assert result.score == "accuracy"
    assert result.manifest["measurement"]["score"] == "accuracy over targets other than -100"
    assert "accuracy" in result.to_frame().columns


@pytest.mark.parametrize("last", [False, True])
def test_the_accuracy_of_tokens_leaves_out_those_that_are_ignored(last):
    model, data = model_and_tokens()
    wrapped = nn.Sequential(model, nn.Flatten(2)) if not last else model
    forward = None
    if last:  # outputs (n, length, classes), which the loss turns around

        def forward(module, batch):
            return module(batch[0]).transpose(1, 2), batch[1]

        def loss(outputs, targets):
            return functional.cross_entropy(outputs.transpose(1, 2), targets)

        def count(outputs, targets):
            return (targets != -100).sum()

        objective = Objective(wrapped, loss, data, forward=forward, denominator=count)
    else:
        objective = Objective(wrapped, functional.cross_entropy, data)
    result = line_slice(objective, torch.ones(objective.space.dim), coordinates=[0.0], score=accuracy)
    right = [(model(x).argmax(1) == y)[y != -100] for x, y in data]
    assert result.scores[0] == pytest.approx(torch.cat(right).double().mean().item(), rel=1e-15)
    assert 0 < result.scores[0] < 1


def test_class_weights_of_the_loss_do_not_weigh_the_accuracy():
    given = problem("tanh_mlp")
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 50.0]).double())
    objective = Objective(given.model, loss, ragged(given.x, given.y))
    result = line_slice(objective, torch.ones(objective.space.dim), coordinates=[0.0], score=accuracy)
    assert result.scores[0] == pytest.approx((given.model(given.x).argmax(1) == given.y).double().mean().item())


def test_another_score_is_weighted_like_the_loss():
    model, data = model_and_tokens()

    def doubled(outputs, targets):
        return 2 * functional.cross_entropy(outputs, targets)

    objective = Objective(model, functional.cross_entropy, data)
    result = line_slice(objective, torch.ones(objective.space.dim), coordinates=T, score=doubled)
    assert np.allclose(result.scores, 2 * result.losses, rtol=1e-14)
    assert result.score == "doubled"


def test_without_a_score_there_is_none():
    result = line_slice(problem("tanh_mlp").objective(), torch.ones(31), coordinates=[0.0])
    assert (result.scores, result.stderrs, result.held_out_losses, result.score) == (None, None, None, "")


def test_nothing_that_counts_has_no_accuracy():
    assert math.isnan(accuracy(torch.zeros(2, 3), torch.full((2,), -100)))
    assert Accuracy(ignore_index=0)(torch.eye(3)[:2], torch.tensor([0, 1])) == 1.0


@pytest.mark.parametrize(
    ("outputs", "targets", "words"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3), "got float32 targets of shape .4, 3. for outputs of shape .4, 3."),
        (torch.zeros(4), torch.zeros(4), "got float32 targets"),
        (torch.zeros(4, 3), torch.zeros(5).long(), "got int64 targets of shape .5,."),
        (torch.zeros(4, 3), None, "got Tensor and NoneType"),
    ],
)
def test_targets_that_are_no_classes_are_refused(outputs, targets, words):
    with pytest.raises(ValueError, match=words):
        accuracy(outputs, targets)


def test_an_objective_that_has_no_accuracy_is_refused_before_anything_is_measured():
    objective, reports = problem("tanh_mlp_mse").objective(), []
    with pytest.raises(ValueError, match="the accuracy needs whole numbers of classes as targets"):
        line_slice(
            objective, torch.ones(31), coordinates=T, score=accuracy, progress=lambda *report: reports.append(report)
        )
    assert not reports
    with pytest.raises(ValueError, match=r"score must return a scalar tensor.*; <lambda> gave \(3, 3\)"):
        line_slice(objective, torch.ones(31), coordinates=T, score=lambda outputs, targets: outputs - targets)
