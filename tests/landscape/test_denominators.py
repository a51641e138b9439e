from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, ragged
from torch import nn

from landscape import Objective
from landscape.denominators import CrossEntropyDenominator, denominator_of, examples

WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
X = normal(N, 4, seed=1)
TOKENS = normal(N, 6, 4, seed=2)


def ignored(y: torch.Tensor, index: int) -> torch.Tensor:
    """Targets that are ignored more often in the first batch than in the others."""
    y = y.clone()
    y.view(N, -1)[1:4] = index
    y.view(N, -1)[7] = index
    return y


def over_all_data(model, loss, x, y):
    return loss(model(x), y).detach()


LOSSES = {
    "plain": (F.cross_entropy, -100),
    "ignore_index -100": (F.cross_entropy, -100),
    "ignore_index 0": (functools.partial(F.cross_entropy, ignore_index=0), 0),
    "class weights": (functools.partial(F.cross_entropy, weight=WEIGHT), None),
    "module with class weights": (nn.CrossEntropyLoss(weight=WEIGHT), None),
    "weights and ignore_index": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1), 1),
    "weights and an ignore_index that is no class": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255), 255),
    "label smoothing, weights, ignore_index": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2, label_smoothing=0.1),
        2,
    ),
}


@pytest.mark.parametrize(("loss", "index"), LOSSES.values(), ids=LOSSES.keys())
def test_ragged_batches_give_the_loss_over_all_the_data_at_once(loss, index):
    model = nn.Linear(4, 3).double()
    y = classes(N, 3, seed=3)
    y = y if index is None else ignored(y, index)
    objective = Objective(model, loss, ragged(X, y))
    assert torch.allclose(objective.loss(objective.weights), over_all_data(model, loss, X, y), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("loss", "index"), LOSSES.values(), ids=LOSSES.keys())
def test_the_gradient_and_curvature_over_ragged_batches_are_those_over_all_the_data(loss, index):
    model = nn.Linear(4, 3).double()
    y = classes(N, 3, seed=3)
    y = y if index is None else ignored(y, index)
    parts, whole = Objective(model, loss, ragged(X, y)), Objective(model, loss, [(X, y)])
    w, v = parts.weights, normal(15, seed=9)
    assert torch.allclose(parts.gradient(w), whole.gradient(w), rtol=1e-12, atol=1e-15)
    assert torch.allclose(parts.hvp(w, v), whole.hvp(w, v), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_tokens_are_counted_and_not_examples(weight):
    class Tagger(nn.Linear):
        def forward(self, x):
            return super().forward(x).transpose(1, 2)  # (n, classes, tokens)

    model = Tagger(4, 3).double()
    y = torch.randint(0, 3, (N, 6))
    y[:4, 1:] = -100
    loss = nn.CrossEntropyLoss(weight=weight)
    objective = Objective(model, loss, ragged(TOKENS, y))
    expected = over_all_data(model, loss, TOKENS, y)
    assert torch.allclose(objective.loss(objective.weights), expected, rtol=1e-13, atol=0)


def test_a_batch_in_which_everything_is_ignored_does_not_count():
    model = nn.Linear(4, 3).double()
    y = classes(N, 3)
    y[5:10] = -100  # the whole second batch
    objective = Objective(model, F.cross_entropy, ragged(X, y))
    w, kept = objective.weights, torch.cat([torch.arange(5), torch.arange(10, N)])
    alone = Objective(model, F.cross_entropy, [(X[kept], y[kept])])
    assert torch.allclose(objective.loss(w), alone.loss(w), rtol=1e-13, atol=0)
    assert torch.allclose(objective.gradient(w), alone.gradient(w), rtol=1e-12, atol=1e-15)
    assert torch.allclose(objective.hvp(w, w), alone.hvp(w, w), rtol=1e-12, atol=1e-15)


def test_class_probabilities_are_divided_by_the_rows_even_under_class_weights():
    model, loss = nn.Linear(4, 3).double(), nn.CrossEntropyLoss(weight=WEIGHT)
    y = torch.softmax(normal(N, 3), dim=1)
    objective = Objective(model, loss, ragged(X, y))
    assert torch.allclose(objective.loss(objective.weights), over_all_data(model, loss, X, y), rtol=1e-13, atol=0)


def test_nll_loss_is_read_like_cross_entropy():
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1)).double()
    loss = nn.NLLLoss(weight=WEIGHT, ignore_index=1)
    y = classes(N, 3)
    objective = Objective(model, loss, ragged(X, y))
    assert torch.allclose(objective.loss(objective.weights), over_all_data(model, loss, X, y), rtol=1e-13, atol=0)


def test_a_denominator_of_ones_own_puts_an_unknown_loss_together():
    def loss(outputs, targets):
        return (outputs[:, 0] * targets).sum() / targets.sum()

    model, y = nn.Linear(4, 1).double(), torch.rand(N, dtype=torch.float64) + 0.1
    objective = Objective(model, loss, ragged(X, y), denominator=lambda outputs, targets: targets.sum())
    assert torch.allclose(objective.loss(objective.weights), over_all_data(model, loss, X, y), rtol=1e-13, atol=0)


@pytest.mark.parametrize("targets", [{"a": torch.zeros(7), "b": torch.zeros(7)}, (torch.zeros(7),) * 2, torch.zeros(7)])
def test_examples_are_the_rows_of_the_targets_however_they_are_nested(targets):
    assert examples(None, targets) == 7


def test_examples_are_the_rows_of_the_outputs_where_there_are_no_targets():
    assert examples(torch.zeros(7, 2), None) == 7


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        nn.MSELoss(reduction="none"),
        functools.partial(F.mse_loss, reduction="sum"),
    ],
)
def test_a_loss_that_is_set_to_another_reduction_than_the_mean_is_refused(loss):
    with pytest.raises(ValueError, match=r"the loss must be a mean over its batch; got reduction='(sum|none)'"):
        denominator_of(loss)


@pytest.mark.parametrize("number", [2, 4])
def test_class_weights_of_another_number_of_classes_are_refused(number):
    loss = nn.CrossEntropyLoss(weight=torch.ones(number).double())
    with pytest.raises(ValueError, match=rf"has weights for {number} classes, and outputs \(5, 3\) are for 3; give"):
        Objective(nn.Linear(4, 3).double(), loss, ragged(X, classes(N, 3)))


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_that_are_negative_or_no_number_are_refused(wrong, soft):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, wrong, 3.0]).double())
    targets = F.one_hot(classes(N, 3), 3).double() if soft else classes(N, 3)
    with pytest.raises(ValueError, match=rf"^the loss has the class weight {wrong:g} for class 1; a mean is by"):
        Objective(nn.Linear(4, 3).double(), loss, ragged(X, targets))


def test_the_name_of_a_denominator_says_what_is_ignored_and_hashes_the_class_weights():
    assert repr(CrossEntropyDenominator(ignore_index=0)) == "targets other than 0, no class weights"
    weighted, other = (repr(CrossEntropyDenominator(weight=w)) for w in (WEIGHT, WEIGHT + 1e-12))
    assert weighted.startswith("targets other than -100, class weights float64[3] ")
    assert weighted != other
