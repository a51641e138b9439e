"""Loss and accuracy on data, with the model left as it was."""

from __future__ import annotations

import functools
import math

import numpy as np
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


def scored(number, classes=3):
    """Random scores and classes in double precision."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(number, classes, generator=generator, dtype=torch.float64)
    return Examples(scores, torch.randint(0, classes, (number,), generator=generator))


def test_accuracy_and_loss_are_means_over_examples_also_with_a_ragged_last_batch():
    examples = identity_examples(1003, right=1000)  # batches of 1,000 and of 3, which are all wrong
    found = evaluate(nn.Identity(), functional.cross_entropy, examples)
    expected = functional.cross_entropy(examples.inputs, examples.targets).item()
    assert found.accuracy == 1000 / 1003
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.right.tolist() == [1] * 1000 + [0] * 3
    assert found.counted.tolist() == [1] * 1003


def test_the_loss_of_all_is_divided_by_what_the_loss_itself_divides_by_across_batches():
    examples, weighted = scored(1003), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 7.0]).double())
    found = evaluate(nn.Identity(), weighted, examples)
    assert found.loss == pytest.approx(weighted(examples.inputs, examples.targets).item(), rel=1e-14)


@pytest.mark.parametrize(("right", "expected"), [(20, 0.04), (50, 0.05)])
def test_the_standard_error_of_the_accuracy_is_binomial(right, expected):
    found = evaluate(nn.Identity(), functional.cross_entropy, identity_examples(100, right=right))
    assert found.accuracy_stderr == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"weight": torch.full((3,), 2.0).double()}])
def test_the_standard_error_of_the_loss_is_that_of_the_mean_of_the_losses_of_single_examples(settings):
    examples = scored(37)
    found = evaluate(nn.Identity(), functools.partial(functional.cross_entropy, **settings), examples, each=True)
    plain = {key: value for key, value in settings.items() if key != "weight"}  # equal weights do not act
    each = functional.cross_entropy(examples.inputs, examples.targets, reduction="none", **plain)
    np.testing.assert_allclose(found.losses, each.numpy(), rtol=1e-13)
    assert found.losses.mean() == pytest.approx(found.loss, rel=1e-13)
    assert found.loss_stderr == pytest.approx((each.var(correction=1) / 37).sqrt().item(), rel=1e-13)


def test_in_single_precision_the_losses_average_to_the_loss_within_rounding():
    examples = scored(797, classes=10)
    found = evaluate(
        nn.Identity(), functional.cross_entropy, Examples(20 * examples.inputs.float(), examples.targets), each=True
    )
    assert found.loss_stderr == pytest.approx(found.losses.std(ddof=1) / math.sqrt(797), rel=1e-12)


def unequal(outputs, targets):
    return functional.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 2.0, 3.0]).double())


def without_a_class(outputs, targets):
    return functional.cross_entropy(outputs, targets, ignore_index=1)


def of_several(outputs, targets):
    if len(targets) < 2:
        raise ValueError("a loss over pairs takes two examples or more")
    return functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize("criterion", [unequal, without_a_class, of_several])
def test_where_the_loss_is_no_plain_mean_its_standard_error_is_unknown(criterion):
    found = evaluate(nn.Identity(), criterion, scored(37), each=True)
    assert math.isfinite(found.loss)
    assert math.isnan(found.loss_stderr)


def test_a_single_example_gives_no_standard_error_of_the_loss():
    assert math.isnan(evaluate(nn.Identity(), functional.cross_entropy, scored(1), each=True).loss_stderr)


def test_it_is_measured_in_evaluation_mode_and_each_module_gets_its_mode_back(make_net, make_batch):
    model = make_net(torch.float64, nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    statistics, state = model[1].running_mean.clone(), torch.get_rng_state()
    found = evaluate(model, functional.cross_entropy, Examples(*make_batch(11)))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    again = evaluate(model.eval(), functional.cross_entropy, Examples(*make_batch(11)))
    assert found.loss == again.loss


def test_modes_come_back_after_an_error(make_net, make_batch):
    model = make_net().train()
    inputs, targets = make_batch(11)
    with pytest.raises(RuntimeError):
        evaluate(model, functional.cross_entropy, Examples(inputs[:, :1], targets))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("right", [0, 10])
def test_ten_right_answers_are_no_certainty(right):
    found = Evaluation(1.0, right=np.full(10, right / 10), counted=np.ones(10))
    assert found.accuracy == right / 10
    assert found.accuracy_stderr == pytest.approx(math.sqrt(0.1 * 0.9 / 10))


def tokens():
    """Outputs ``(n, classes, length)`` with the identity as the model; no token of two sentences counts."""
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(1203, 3, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (1203, 4), generator=generator)
    targets[::3, 2:] = -100
    targets[5] = targets[1200] = -100
    return outputs, targets


def test_tokens_that_are_ignored_count_neither_in_the_loss_nor_in_the_accuracy():
    outputs, targets = tokens()
    found = evaluate(nn.Identity(), functional.cross_entropy, Examples(outputs, targets), each=True)
    right, counts = outputs.argmax(1) == targets, targets != -100
    assert found.loss == pytest.approx(functional.cross_entropy(outputs, targets).item(), rel=1e-13)
    assert found.accuracy == pytest.approx(right[counts].double().mean().item(), rel=1e-15)
    assert found.counted.tolist() == counts.sum(1).tolist()
    n, p = len(targets), found.accuracy
    spread = ((right & counts).sum(1).double() - p * counts.sum(1).double()) / counts.sum(1).double().mean()
    assert found.accuracy_stderr == pytest.approx((spread.square().mean() / n).sqrt().item(), rel=1e-12)
    assert found.deviations.mean() == pytest.approx(0.0, abs=1e-14)
    each, d = functional.cross_entropy(outputs, targets, reduction="none").sum(1), counts.sum(1)
    single = each[d > 0] / d[d > 0]
    variance = (d[d > 0] * (single - found.loss) ** 2).sum() / (len(single) - 1)
    assert found.loss_stderr == pytest.approx((variance / d.sum()).sqrt().item(), rel=1e-10)


def test_outputs_that_are_large_are_never_there_all_at_once(monkeypatch):
    outputs, targets = tokens()
    whole = evaluate(nn.Identity(), functional.cross_entropy, Examples(outputs, targets), each=True)
    seen = []

    def forward(model, batch):
        seen.append(len(batch[1]))
        return model(batch[0]), batch[1]

    monkeypatch.setattr("msam.evaluation.MOST_BYTES", 8 * 12 * 500)  # scores of 500 examples
    found = evaluate(nn.Identity(), functional.cross_entropy, Examples(outputs, targets), forward=forward, each=True)
    assert seen == [1, 500, 500, 203]
    assert found.loss == pytest.approx(whole.loss, rel=1e-13)
    assert found.accuracy == whole.accuracy
    assert found.loss_stderr == pytest.approx(whole.loss_stderr, rel=1e-12)


def test_another_number_may_be_ignored():
    outputs, targets = tokens()
    loss = nn.CrossEntropyLoss(ignore_index=2)
    found = evaluate(nn.Identity(), loss, Examples(outputs, targets.clamp(min=0)))
    counts = targets.clamp(min=0) != 2
    assert found.accuracy == pytest.approx((outputs.argmax(1) == targets.clamp(min=0))[counts].double().mean().item())
    assert repr(found.score) == "accuracy over targets other than 2"


def turned(outputs, targets):
    """A loss that does not say what it ignores."""
    return functional.cross_entropy(outputs.transpose(1, 2), targets)


def test_tokens_under_a_loss_of_ones_own_have_a_loss_by_their_denominator_and_no_accuracy():
    outputs, targets = tokens()
    count = lambda _, y: (y != -100).sum()  # noqa: E731
    found = evaluate(nn.Identity(), turned, Examples(outputs.transpose(1, 2), targets), denominator=count, each=True)
    assert found.loss == pytest.approx(functional.cross_entropy(outputs, targets).item(), rel=1e-13)
    assert found.loss_stderr > 0
    assert math.isnan(found.accuracy)
    assert math.isnan(found.accuracy_stderr)
    assert found.deviations is found.score is None


@pytest.mark.parametrize("shape", [(1003,), (1003, 2)])
def test_regression_has_a_loss_with_its_error_and_no_accuracy(shape):
    generator = torch.Generator().manual_seed(2)
    outputs, targets = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = evaluate(nn.Identity(), functional.mse_loss, Examples(outputs, targets), each=True)
    each = (outputs - targets).square().view(1003, -1).mean(1)
    assert found.loss == pytest.approx(each.mean().item(), rel=1e-13)
    assert found.loss_stderr == pytest.approx((each.var() / 1003).sqrt().item(), rel=1e-12)
    assert math.isnan(found.accuracy)


def test_counts_are_no_classes():
    rates, counts = torch.rand(11, 2).double(), torch.arange(11)
    loss = lambda z, y: functional.gaussian_nll_loss(z[:, 0], y.double(), z[:, 1])  # noqa: E731
    assert math.isnan(evaluate(nn.Identity(), loss, Examples(rates, counts)).accuracy)
    one = lambda z, y: functional.poisson_nll_loss(z[:, 0], y.double())  # noqa: E731
    assert math.isnan(evaluate(nn.Identity(), one, Examples(rates[:, :1], counts)).accuracy)


def test_where_nothing_counts_nothing_is_known():
    examples = Examples(scored(5).inputs, torch.full((5,), -100))
    found = evaluate(nn.Identity(), functional.cross_entropy, examples, each=True)
    assert all(math.isnan(value) for value in (found.loss, found.loss_stderr, found.accuracy, found.accuracy_stderr))


def test_a_single_example_that_is_right_is_no_certainty_and_neither_are_tokens_that_are_all_right():
    found = evaluate(nn.Identity(), functional.cross_entropy, identity_examples(1, right=1))
    assert (found.accuracy, found.accuracy_stderr) == (1, 0.5)
    rows = identity_examples(12, right=12)
    tokens = Examples(rows.inputs.view(3, 4, 3).transpose(1, 2), rows.targets.view(3, 4))
    found = evaluate(nn.Identity(), functional.cross_entropy, tokens)
    assert found.accuracy == 1
    assert found.accuracy_stderr == pytest.approx(math.sqrt(1 / 12 * 11 / 12 / 12), rel=1e-12)  # of one mistake


def test_a_loss_that_does_not_say_what_it_divides_by_is_taken_of_all_at_once(monkeypatch):
    monkeypatch.setattr("msam.evaluation.BATCH", 4)
    examples = scored(11)
    found = evaluate(nn.Identity(), unequal, examples)
    assert found.loss == pytest.approx(unequal(examples.inputs, examples.targets).item(), rel=1e-13)


def test_what_one_batch_does_not_have_the_whole_does_not_have(monkeypatch):
    """Losses of single examples, and classes for targets."""
    monkeypatch.setattr("msam.evaluation.BATCH", 4)

    def loss(outputs, targets):
        if len(targets) == 1 and targets[0] == 7:
            raise ValueError("no loss of a single one")
        return outputs.mean()

    examples = Examples(scored(11).inputs, torch.tensor([1] * 8 + [7] * 3))
    count = lambda outputs, targets: len(targets)  # noqa: E731
    found = evaluate(nn.Identity(), loss, examples, denominator=count, each=True)
    assert (found.losses, found.weights, found.score, found.right) == (None, None, None, None)
    assert found.loss == pytest.approx(examples.inputs.mean().item(), rel=1e-13)


def test_losses_of_which_little_is_left_average_to_it_within_the_rounding_of_the_scores():
    rows = torch.linspace(-2e4, 2e4, 796).roll(123)[:, None]
    count = lambda outputs, targets: len(targets)  # noqa: E731
    mean = lambda outputs, targets: outputs.mean()  # noqa: E731
    found = evaluate(nn.Identity(), mean, Examples(rows, torch.zeros(796)), denominator=count, each=True)
    assert 0 < abs(found.loss - found.losses.mean()) < 1e-2
    assert found.loss_stderr == pytest.approx(found.losses.std(ddof=1) / math.sqrt(796), rel=1e-9)
