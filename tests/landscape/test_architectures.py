"""Real architectures as they are, over ragged dict batches with padding: every measure is the dense float64 answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures import FUSED, LENGTHS, PLAIN, Dense, fused, instance

from landscape import (
    EmpiricalFisherOperator,
    Frozen,
    GGNOperator,
    GradientAscent,
    HessianOperator,
    Objective,
    average_case_sharpness,
    interpolate,
    line_slice,
    m_sharpness,
    plane_slice,
    spectral_density,
    top_eigenvalues,
    trace,
    worst_case_sharpness,
)
from landscape.noise import Noise

EPS = 1e-11
RHO = 0.05
PARTS = {  # patterns of a few blocks each
    "BERT": "*.attention.self.*",
    "RoBERTa": "*.[qv]*.weight",
    "GPT-2": "*.c_proj.*",
    "BERT over tokens": "*LayerNorm*",
    "ViT": "*embeddings*",
    "ResNet": "*normalization*",
}
every = pytest.mark.parametrize("name", FUSED)


def near(found, dense):
    """Equal up to rounding, for the size of the whole."""
    found, dense = (part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part) for part in (found, dense))
    assert found.shape == dense.shape
    return np.linalg.norm(found - dense) <= EPS * np.linalg.norm(dense)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every
def test_loss_gradient_and_products(name):
    given, dense = fused(name)
    objective, w, V = given.objective(), dense.w, random(len(dense.w), 3)
    assert torch.equal(objective.weights, w)
    assert objective.space.names == tuple(dense.sizes)
    assert float(objective.weight) == float(given.counted.sum())
    assert near(objective.loss(w), dense.loss(w))
    assert near(objective.gradient(w), dense.gradient(w))
    assert near(objective.hvp(w, V[:, 0]), dense.hessian @ V[:, 0])
    assert near(HessianOperator(objective).apply(V), dense.hessian @ V)
    assert near(GGNOperator(objective).apply(V), dense.gauss_newton @ V)
    assert near(EmpiricalFisherOperator(objective).apply(V), dense.fisher @ V)
    assert (dense.gauss_newton - dense.hessian).norm() > 0.5 * dense.hessian.norm()  # or they could be mistaken


@pytest.mark.parametrize("name", PLAIN)
def test_plain_attention_has_the_same_answers_as_fused(name):
    _, dense = fused(name)
    objective, v = instance(PLAIN[name]).objective(), random(len(dense.w))
    assert torch.equal(objective.weights, dense.w)
    assert near(objective.gradient(dense.w), dense.gradient(dense.w))
    assert near(objective.hvp(dense.w, v), dense.hessian @ v)
    assert m_sharpness(objective, GradientAscent(RHO), microbatch_size=3).value == pytest.approx(
        dense.rise(RHO, 3), rel=1e-10
    )


@every
def test_the_largest_eigenvalues_and_the_moments_of_the_density(name):
    given, dense = fused(name)
    hessian, H = HessianOperator(given.objective()), dense.hessian
    found = top_eigenvalues(hessian, k=2, tol=1e-6)
    assert found.converged.all()
    assert found.eigenvalues == pytest.approx(torch.linalg.eigvalsh(H).flip(0)[:2].numpy(), rel=1e-10)
    density = spectral_density(hessian, 4, num_probes=1, seed=5)
    u = random(len(H), seed=5)
    image = u = u / u.norm()
    for power in range(1, 8):  # quadrature with four nodes is exact so far
        image = H @ image
        moment = (density.nodes[0] ** power * density.weights[0]).sum()
        assert abs(moment - float(u @ image)) <= 1e-10 * float(torch.linalg.matrix_norm(H, 2)) ** power


@every
def test_the_trace_of_each_layer_of_a_part_chosen_by_pattern(name):
    given, whole = fused(name)
    dense = Dense(given, PARTS[name])
    objective = given.objective().select(PARTS[name])
    assert 1 < len(dense.sizes) < len(whole.sizes)
    assert objective.space.names == tuple(dense.sizes)
    hessian = HessianOperator(objective)
    assert near(hessian.apply(torch.eye(len(dense.w)).double()), dense.hessian)
    found = trace(hessian, num_probes=len(dense.w))
    blocks = [float(block.sum()) for block in dense.hessian.diagonal().split(list(dense.sizes.values()))]
    assert near(found.estimate, sum(blocks))
    assert near(found.block_estimates, blocks)
    assert near(GGNOperator(objective).apply(dense.w), dense.gauss_newton @ dense.w)
    assert near(given.objective(parameters=PARTS[name]).gradient(dense.w), dense.gradient(dense.w))


@every
@pytest.mark.parametrize("size", [1, 3, 7])
def test_m_sharpness_weighs_shards_by_the_targets_that_count(name, size):
    given, dense = fused(name)
    expected = dense.rise(RHO, size)
    found = m_sharpness(given.objective(), GradientAscent(RHO), microbatch_size=size)
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert found.denominators.sum() == given.counted.sum()
    worst = worst_case_sharpness(given.objective(), GradientAscent(RHO), microbatch_size=size, steps=1)
    assert worst.value == pytest.approx(expected, rel=1e-10)  # its first step is projected onto the same point


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "GPT-2", "BERT over tokens"])
def test_shards_may_have_sentences_that_are_padded_to_different_lengths(name):
    given, dense = fused(name)
    batches = []
    for rows in ([0, 1], [2], [3, 4, 5], [6]):  # of 5, 4, 5 and 3 tokens
        longest = max(LENGTHS[row] for row in rows)
        cut = {key: value[rows][:, :longest] if value.ndim == 2 else value[rows] for key, value in given.whole.items()}
        batches.append(type(given.whole)(cut))
    objective = Objective(given.model, given.criterion, batches, **given.settings)
    for size in (2, 3, 4, 7):
        found = m_sharpness(objective, GradientAscent(RHO), microbatch_size=size)
        assert found.value == pytest.approx(dense.rise(RHO, size), rel=1e-10)
        assert found.shard_sizes.sum() == 7
        worst = worst_case_sharpness(objective, GradientAscent(RHO), microbatch_size=size, steps=1)
        assert worst.value == pytest.approx(dense.rise(RHO, size), rel=1e-10)


@every
def test_the_worst_case_is_above_one_step_and_the_average_case_is_the_mean_over_its_draws(name):
    given, dense = fused(name)
    objective = given.objective()
    found = worst_case_sharpness(objective, GradientAscent(RHO), microbatch_size=7, steps=5)
    assert dense.rise(RHO, 7) < found.value
    average = average_case_sharpness(objective, GradientAscent(RHO), num_draws=3, seed=2)
    draws = Noise(objective, num_draws=3, seed=2, measure=lambda w: float(dense.loss(w)))
    assert average.value == pytest.approx(float(draws.rises(RHO).mean()), rel=1e-9)


@every
def test_slices_and_paths(name):
    given, dense = fused(name)
    objective, w = given.objective(), dense.w
    u, v, other = random(len(w), seed=1), random(len(w), seed=2), w + 0.3 * random(len(w), seed=3)
    line = line_slice(objective, u, coordinates=[-0.3, 0.0, 0.2])
    assert near(line.losses, [float(dense.loss(w + t * u)) for t in (-0.3, 0.0, 0.2)])
    x, y = (-0.1, 0.0, 0.2), (0.0, 0.3)
    plane = plane_slice(objective, (u, v), x=x, y=y)
    assert near(plane.losses, [[float(dense.loss(w + a * u + b * v)) for a in x] for b in y])
    path = interpolate(objective, objective.at(other), points=4, batch_norm=Frozen())
    heights = np.array([float(dense.loss((1 - t) * w + t * other)) for t in path.t])
    assert near(path.losses, heights)
    chord = (1 - path.t) * heights[0] + path.t * heights[-1]
    assert path.barrier.height == pytest.approx((heights - chord).max(), rel=1e-10)
