from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import ZOO, N, classes, normal, problem, quadratic, ragged, symmetric
from torch import nn

from landscape import AdaptiveAscent, GradientAscent, Objective, m_sharpness

A = symmetric(torch.linspace(-1, 3, 6).double())
SLOPES = normal(N, 6, seed=1)
RHO = 0.2


def naive(given, perturbation, size):
    """Rise of each shard, by hand: slices of the data, autograd on the model's own parameters."""
    rises, sizes = [], []
    for start in range(0, N, size):
        x, y = given.x[start : start + size], given.y[start : start + size]
        weights = [p for p in given.model.parameters() if p.requires_grad]
        before = given.loss(given.model(x), y)
        slopes = torch.autograd.grad(before, weights, allow_unused=True, materialize_grads=True)
        originals = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for p, e in zip(weights, perturbation(originals, list(slopes)), strict=True):
                p.add_(e)
            rises.append((given.loss(given.model(x), y) - before).item())
            for p, original in zip(weights, originals, strict=True):
                p.copy_(original)
        sizes.append(len(x))
    return np.array(rises), np.array(sizes)


@pytest.mark.parametrize("size", [1, 3, 4, 6, N])
def test_on_a_quadratic_it_is_the_closed_form(size):
    w = normal(6)
    result = m_sharpness(quadratic(A, w=w, slopes=SLOPES), GradientAscent(RHO), microbatch_size=size)
    rises, sizes = [], []
    for b in (part.mean(dim=0) for part in SLOPES.split(size)):
        g = A @ w + b
        rises.append((RHO * g.norm() + RHO**2 / 2 * (g @ A @ g) / (g @ g)).item())
    sizes = [len(part) for part in SLOPES.split(size)]
    assert np.allclose(result.per_shard, rises, rtol=1e-11)
    assert result.shard_sizes.tolist() == sizes
    assert result.value == pytest.approx(np.average(rises, weights=sizes), rel=1e-11)


@pytest.mark.parametrize("perturbation", [GradientAscent(0.1), AdaptiveAscent(0.5)])
@pytest.mark.parametrize("name", ZOO)
def test_on_networks_it_is_the_naive_loop(name, perturbation):
    given = problem(name)
    result = m_sharpness(given.objective(), perturbation, microbatch_size=4)
    rises, sizes = naive(given, perturbation, 4)
    assert np.allclose(result.per_shard, rises, rtol=1e-9, atol=1e-13)
    assert result.shard_sizes.tolist() == sizes.tolist() == [4, 4, 4, 1]
    assert result.value == pytest.approx((sizes * rises).sum() / N, rel=1e-9)


def test_shards_do_not_depend_on_the_batches_they_were_read_in():
    given = problem("tanh_mlp")
    whole = type(given.objective())(given.model, given.loss, [(given.x, given.y)])
    first = m_sharpness(given.objective(), GradientAscent(0.1), microbatch_size=4)
    second = m_sharpness(whole, GradientAscent(0.1), microbatch_size=4)
    assert np.allclose(first.per_shard, second.per_shard, rtol=1e-12)
    assert first.manifest["shards"] == second.manifest["shards"]


def test_the_standard_error_of_equal_shards_is_that_of_their_mean():
    objective = quadratic(A, slopes=SLOPES)
    result = m_sharpness(objective, GradientAscent(RHO), microbatch_size=1)
    assert result.stderr == pytest.approx(result.per_shard.std(ddof=1) / math.sqrt(N), rel=1e-12)


def test_the_standard_error_of_unequal_shards_weighs_them_by_their_examples():
    result = m_sharpness(quadratic(A, slopes=SLOPES), GradientAscent(RHO), microbatch_size=4)
    d, rises = result.shard_sizes, result.per_shard
    variance = (d * (rises - result.value) ** 2).sum() / (len(d) - 1)
    assert result.stderr == pytest.approx(math.sqrt(variance / N), rel=1e-12)


def test_a_single_shard_has_no_standard_error():
    result = m_sharpness(quadratic(A, slopes=SLOPES), GradientAscent(RHO), microbatch_size=N)
    assert len(result.per_shard) == 1
    assert math.isnan(result.stderr)


def test_the_ascent_that_is_measured_is_the_object_that_training_takes():
    calls = []

    class Recorded(GradientAscent):
        def ascent(self, weights, gradients):
            epsilon = super().ascent(weights, gradients)
            calls.append((weights, gradients, epsilon))
            return epsilon

    given = problem("tanh_mlp")
    m_sharpness(given.objective(), Recorded(RHO), microbatch_size=5)
    weights, gradients, epsilon = calls[0]
    loss = given.loss(given.model(given.x[:5]), given.y[:5])
    own = torch.autograd.grad(loss, list(given.model.parameters()))
    assert len(calls) == 3
    assert [w.shape for w in weights] == [p.shape for p in given.model.parameters()]
    assert all(torch.equal(w, p) for w, p in zip(weights, given.model.parameters(), strict=True))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(gradients, own, strict=True))
    trained = GradientAscent(RHO)(list(given.model.parameters()), list(own))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(epsilon, trained, strict=True))


def test_a_zero_radius_gives_no_rise():
    result = m_sharpness(quadratic(A, slopes=SLOPES), GradientAscent(0.0), microbatch_size=4)
    assert not result.per_shard.any()


def test_a_perturbed_loss_that_overflows_is_shown_as_such():
    result = m_sharpness(quadratic(A.abs(), slopes=SLOPES), GradientAscent(1e200), microbatch_size=5)
    assert not np.isfinite(result.per_shard).any()
    assert not math.isfinite(result.value)
    assert math.isnan(result.stderr)


def test_the_manifest_names_perturbation_size_and_order():
    objective = problem("tanh_mlp").objective()
    result = m_sharpness(objective, AdaptiveAscent(0.5, eta=0.1), microbatch_size=4)
    assert result.microbatch_size == 4
    assert result.manifest["shards"] == {"order": objective.order}
    assert result.manifest["measurement"] == {
        "name": "m_sharpness",
        "microbatch_size": 4,
        "perturbation": "AdaptiveAscent",
        "rho": 0.5,
        "eta": 0.1,
    }
    assert result.summary()["rho"] == 0.5


def test_the_shards_done_are_reported():
    reports = []
    objective = problem("tanh_mlp").objective()
    m_sharpness(
        objective, GradientAscent(RHO), microbatch_size=4, progress=lambda done, all_: reports.append((done, all_))
    )
    assert reports == [(3, 4), (4, 4)]  # those of one size at once


@pytest.mark.parametrize("size", [0, N + 1])
def test_a_shard_size_that_is_no_number_of_examples_is_refused(size):
    with pytest.raises(ValueError, match=f"a shard must have 1 to {N} examples, all there are; got {size}"):
        m_sharpness(quadratic(A), GradientAscent(RHO), microbatch_size=size)


def test_a_shard_size_that_is_not_an_integer_is_refused():
    with pytest.raises(TypeError, match=r"the size of a shard must be an integer; got 2\.5"):
        m_sharpness(problem("tanh_mlp").objective(), GradientAscent(rho=0.1), microbatch_size=2.5)


def weighed(model, loss, x, y, size):
    """Rises and denominators of the shards that have any, by the textbook."""
    rises, weights = [], []
    for a, b in zip(x.split(size), y.split(size), strict=True):
        kept = b != loss.ignore_index
        d = kept.sum().item() if loss.weight is None else loss.weight[b[kept]].sum().item()
        if d:
            one = Objective(model, loss, [(a, b)])
            w = one.weights
            rises.append((one.loss(w + RHO * one.gradient(w) / one.gradient(w).norm()) - one.loss(w)).item())
            weights.append(d)
    return np.array(rises), np.array(weights)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)),
    ],
    ids=["ignored", "class weights", "a class without weight"],
)
def test_shards_are_weighed_by_what_their_loss_is_divided_by_and_empty_ones_are_left_out(loss):
    model, x, y = nn.Linear(3, 3).double(), normal(N, 3), classes(N, 3)
    y[[0, 5]] = -100
    y[8:12] = -100  # the third shard of four
    objective = Objective(model, loss, ragged(x, y))
    done = []
    result = m_sharpness(objective, GradientAscent(RHO), microbatch_size=4, progress=lambda i, n: done.append((i, n)))
    rises, weights = weighed(model, loss, x, y, 4)
    assert result.shard_sizes.tolist() == [4, 4, 1][: len(rises)]
    assert np.allclose(result.per_shard, rises, rtol=1e-9)
    assert result.value == pytest.approx(np.average(rises, weights=weights), rel=1e-9)
    assert result.value != pytest.approx(np.average(rises, weights=result.shard_sizes), rel=1e-6)
    variance = weights @ (rises - result.value) ** 2 / (len(rises) - 1)
    assert result.stderr == pytest.approx(math.sqrt(variance / weights.sum()), rel=1e-9)
    assert done[-1] == (4, 4)
    assert objective.weight == pytest.approx(weights.sum(), rel=1e-12)


def test_data_without_anything_to_count_have_no_sharpness():
    x, y = normal(N, 3), classes(N, 3)
    objective = Objective(nn.Linear(3, 3).double(), nn.CrossEntropyLoss(), ragged(x, y))
    ignored = objective.part([(x, torch.full_like(y, -100))])
    assert ignored.weight == 0
    with pytest.raises(ValueError, match="no shard has anything that the loss counts"):
        m_sharpness(ignored, GradientAscent(RHO), microbatch_size=4)


def test_the_weight_of_a_plain_mean_is_the_number_of_examples_of_each_shard():
    objective = problem("tanh_mlp").objective()
    assert objective.weight == N
    assert [shard.weight for shard in objective.shards(4)] == [4, 4, 4, 1]
