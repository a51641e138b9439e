"""Kernel regression: what training does is what the closed form says."""

from __future__ import annotations

import pytest
import torch

from landscape import UnnormalisedAscent
from msam import LinearCourse, load_task, mSAM
from msam.data import kernel_regression
from msam.tasks.kernel import halved_squared_error, linear_from_zero

N, LR, RHO = 11, 0.3, 0.8


@pytest.fixture(scope="module")
def drawn():
    return kernel_regression(N, tests=6, dim=2, bandwidth=0.7, seed=0)


def trained(drawn, targets, *, steps, rho, microbatches):
    model = linear_from_zero(drawn.train_features.shape[1]).double()
    sgd = torch.optim.SGD(model.parameters(), lr=LR)
    optimizer = mSAM(sgd, UnnormalisedAscent(rho), num_microbatches=microbatches, module=model)
    for _ in range(steps):
        optimizer.step(lambda b: halved_squared_error(model(b[0]), b[1]), (drawn.train_features, targets))
    return next(model.parameters()).detach().flatten()


def course_of(drawn, *, rho, microbatches):
    return LinearCourse(drawn.train_features, lr=LR, rho=rho, shards=torch.arange(N).tensor_split(microbatches))


def test_features_have_the_kernel_as_their_products(drawn):
    features = torch.cat([drawn.train_features, drawn.test_features])
    gram = features @ features.T
    assert torch.allclose(gram.diagonal(), torch.ones(N + 6).double(), atol=1e-10)
    assert torch.linalg.eigvalsh(gram).min() > -1e-12
    assert drawn.train_truth.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize(("rho", "microbatches"), [(0.0, 1), (RHO, 1), (RHO, 3), (RHO, 11)])
@pytest.mark.parametrize("steps", [1, 7, 60])
def test_training_follows_the_closed_form(drawn, rho, microbatches, steps):
    course = course_of(drawn, rho=rho, microbatches=microbatches)
    found = trained(drawn, drawn.train_targets, steps=steps, rho=rho, microbatches=microbatches)
    assert torch.allclose(found, course.weights(steps) @ drawn.train_targets, rtol=1e-9, atol=1e-11)


def test_with_one_shard_it_is_the_geometric_series_of_the_source(drawn):
    features = drawn.train_features
    G = features @ features.T / N
    D = LR * G @ (torch.eye(N) + RHO * G)
    expected = torch.eye(N).double() - torch.linalg.matrix_power(torch.eye(N).double() - D, 9)
    assert torch.allclose(features @ LinearCourse(features, lr=LR, rho=RHO).weights(9), expected, atol=1e-11)


def test_the_mean_error_over_noise_is_bias_and_variance(drawn):
    course, sigma = course_of(drawn, rho=RHO, microbatches=3), 0.5
    generator = torch.Generator().manual_seed(1)
    errors = []
    W = course.weights(20)
    for _ in range(4000):
        y = drawn.train_truth + sigma * torch.randn(N, generator=generator).double()
        errors.append((drawn.test_features @ (W @ y) - drawn.test_truth).square().mean())
    errors = torch.stack(errors)
    where = {"features": drawn.test_features, "there": drawn.test_truth}
    bias = course.bias(20, truth=drawn.train_truth, **where)
    expected = bias + course.variance(20, noise=sigma, features=drawn.test_features)
    assert errors.mean().item() == pytest.approx(expected, abs=4 * float(errors.std()) / 4000**0.5)


@pytest.mark.parametrize("steps", [2, 20])
def test_more_micro_batches_have_less_bias_and_more_variance(drawn, steps):
    courses = [
        course_of(drawn, rho=rho, microbatches=number) for rho, number in ((0.0, 1), (RHO, 1), (RHO, 3), (RHO, 11))
    ]
    where = {"features": drawn.train_features}
    bias = [c.bias(steps, truth=drawn.train_truth, there=drawn.train_truth, **where) for c in courses]
    variance = [c.variance(steps, noise=1.0, **where) for c in courses]
    assert bias == sorted(bias, reverse=True)
    assert variance == sorted(variance)


def test_without_slope_weights_do_not_move_and_nothing_is_divided_by_zero():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double()
    found = LinearCourse(features, lr=0.1, rho=0.1).weights(50)
    assert torch.isfinite(found).all()
    assert torch.equal(found[1], torch.zeros(2).double())


def test_what_diverges_or_leaves_points_out_is_refused(drawn):
    with pytest.raises(ValueError, match="the descent diverges: lr times the largest eigenvalue is"):
        LinearCourse(drawn.train_features, lr=50.0, rho=RHO)
    with pytest.raises(ValueError, match="every one of the 11 points must be in exactly one shard"):
        LinearCourse(drawn.train_features, lr=LR, rho=RHO, shards=[torch.arange(5), torch.arange(5)])
    with pytest.raises(ValueError, match="kernel regression takes at least one training point"):
        kernel_regression(0, tests=1, seed=0)


def test_the_probe_is_the_distance_from_the_true_function():
    task = load_task("kernel", {"train_examples": 12, "test_examples": 5, "noise": 0.0})
    model = task.model(seed=0)
    assert task.probed(model)["train_excess"] == pytest.approx(1, rel=1e-6)  # f = 0, and f* has mean square 1
    assert torch.equal(model(task.train.inputs), torch.zeros(12))
    assert task.loss(model(task.train.inputs), task.train.targets).item() == pytest.approx(0.5, rel=1e-5)
