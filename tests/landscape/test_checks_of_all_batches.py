from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, ragged, tanh_mlp
from torch import nn

from landscape import HessianOperator, Objective, certify, top_eigenvalues

X, Y = normal(N, 3), classes(N, 3)
DATA = ragged(X, Y)


def build(model=None, loss=F.cross_entropy, data=DATA, **options):
    return Objective((model or tanh_mlp()).double(), loss, data, **options)


SUM = functools.partial(F.cross_entropy, reduction="sum")
CLASS_WEIGHTS = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("sizes", [(1, 12), (1,) * N, (12, 1), (1, 1, 11)])
def test_a_loss_that_sums_is_refused_wherever_the_batches_of_one_example_stand(sizes):
    with pytest.raises(ValueError, match="is not the weighted mean over its parts"):
        build(loss=lambda outputs, y: SUM(outputs, y), data=ragged(X, Y, sizes))


@pytest.mark.parametrize("sizes", [(4, 4, 5), (1, 3, 9)])
@pytest.mark.parametrize("one_class", [True, False], ids=["all of one class", "the first of one class"])
def test_hidden_class_weights_are_refused_where_batches_have_one_class_each(sizes, one_class):
    y = Y.clone()
    for label, part in enumerate(y.split(sizes)):
        if label == 0 or one_class:
            part.fill_(label)
    with pytest.raises(ValueError, match="is not the weighted mean over its parts"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y, weight=CLASS_WEIGHTS), data=ragged(X, y, sizes))
    known = build(loss=nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), data=ragged(X, y, sizes))
    assert known.weight == pytest.approx(CLASS_WEIGHTS[y].sum().item(), rel=1e-12)


class Inside(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x).float().tanh().double())


def test_models_in_double_precision_that_compute_in_single_inside_are_accepted_and_sums_of_theirs_are_not():
    model = Inside(nn.Linear(3, 4), nn.Linear(4, 3))
    hessian = HessianOperator(build(model))
    assert certify(top_eigenvalues(hessian, k=2), hessian).passed
    slightly = lambda outputs, y: F.cross_entropy(outputs, y) + 1e-9 * outputs.sum() ** 2  # noqa: E731
    for one, loss in ((model, SUM), (tanh_mlp(), slightly)):
        with pytest.raises(ValueError, match="is not the weighted mean over its parts"):
            build(one, loss=lambda outputs, y, loss=loss: loss(outputs, y))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("noise", [1e-6, math.nan])
def test_noise_in_any_one_batch_is_refused_and_leaves_the_random_state(place, noise):
    marked = X.clone()
    marked.split([5, 5, 3])[place][:, 0] = 9.0

    class Noisy(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1  # NaN comes after the first pass, and the look for casts before it
            acts = noise == noise or self.calls > 4
            return super().forward(x) + (noise * torch.randn(3).double() if acts and (x[0, 0] == 9.0) else 0.0)

    model = Noisy(3, 3)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="the objective is not deterministic: the same weights and data gave loss"):
        build(model, data=ragged(marked, Y, (5, 5, 3)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("noise", [1e-6, math.nan])
def test_noise_in_the_gradient_of_any_one_batch_is_refused(place, noise):
    marked = X.clone()
    marked.split([5, 5, 3])[place][:, 0] = 9.0

    class Noisy(nn.Linear):
        def forward(self, x):
            outputs = super().forward(x)
            if x[0, 0] != 9.0:
                return outputs
            unseen = outputs * noise * torch.randn(3).double()
            return outputs + _hidden(unseen)

    words = r"the objective is not deterministic.*loss or gradient moved by"
    if math.isnan(noise):  # which is the same each time
        words = "the gradient at the model's weights is not finite where the loss is"
    with pytest.raises(ValueError, match=words):
        build(Noisy(3, 3), data=ragged(marked, Y, (5, 5, 3)))


def _hidden(value):
    """Zero, with the gradient of the value."""

    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.zeros_like(x)

        @staticmethod
        def backward(ctx, slope):
            return slope

    return Hidden.apply(value)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("as_integer", [True, False])
def test_a_batch_that_is_ignored_as_a_whole_is_accepted_in_any_place(place, as_integer):
    def count(outputs, targets):
        kept = (targets != -100).sum()
        return int(kept) if as_integer else kept

    y = Y.clone()
    y.split([5, 5, 3])[place].fill_(-100)
    objective = build(data=ragged(X, y, (5, 5, 3)), denominator=count)
    kept = y != -100
    alone = build(data=[(X[kept], Y[kept])])
    assert torch.allclose(objective.loss(alone.weights), alone.loss(alone.weights), rtol=1e-13, atol=0)
    assert torch.allclose(objective.gradient(alone.weights), alone.gradient(alone.weights), rtol=1e-12, atol=1e-15)
    assert objective.weight == kept.sum()


def test_data_in_which_everything_is_ignored_are_refused():
    with pytest.raises(ValueError, match="the loss at the model's weights is nan; a landscape is measured around"):
        build(data=ragged(X, torch.full_like(Y, -100)))


@pytest.mark.parametrize("place", [0, 2])
def test_a_loss_that_is_not_finite_in_one_batch_is_refused_wherever_it_stands(place):
    x = X.clone()
    x.split([5, 5, 3])[place][0] = math.inf
    with pytest.raises(ValueError, match="the loss at the model's weights is nan"):
        build(data=ragged(x, Y, (5, 5, 3)))


def test_batches_of_several_shapes_are_compared_where_they_can_be_put_together():
    data = [(normal(n, length, 3), normal(n, 3)) for n, length in [(1, 4), (1, 2), (1, 4), (1, 3)]]

    def build_on(loss):
        forward = lambda model, batch: (model(batch[0]).mean(dim=1), batch[1])  # noqa: E731
        return Objective(nn.Linear(3, 3).double(), loss, data, forward=forward)

    assert build_on(F.mse_loss).weight == 4
    with pytest.raises(ValueError, match="is not the weighted mean over its parts"):
        build_on(lambda outputs, y: F.mse_loss(outputs, y, reduction="sum"))


def test_batches_with_a_setting_of_their_own_are_not_put_together():
    data = [(x, y, torch.tensor(float(scale))) for scale, (x, y) in enumerate(DATA)]
    objective = build(data=data, forward=lambda model, batch: (model(batch[0]) * batch[2], batch[1]))
    assert objective.num_examples == N


def test_models_that_squeeze_are_accepted_where_no_batch_has_one_example():
    model = nn.Sequential(nn.Linear(3, 1)).double()
    data = ragged(X, normal(N), (5, 8))
    objective = build(model, F.mse_loss, data, forward=lambda model, batch: (model(batch[0]).squeeze(), batch[1]))
    assert objective.weight == N


def test_the_checks_cost_about_two_passes():
    class Counted(nn.Linear):
        seen: list[int] = []  # noqa: RUF012

        def forward(self, x):
            self.seen.append(len(x))
            return super().forward(x)

    x, y = normal(400, 3), classes(400, 3)
    build(Counted(3, 3), data=ragged(x, y, (100, 150, 90, 60)))
    assert sum(Counted.seen) <= 3.5 * 400  # with gradients, without, in parts
