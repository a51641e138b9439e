from __future__ import annotations

import pytest
import torch
from problems import ZOO, Problem, classes, normal, problem
from torch import nn

from landscape import Objective, filter_normalized, random_direction


def filters_of(objective, vector):
    """(name, filters as rows) of each block with two or more dimensions, and the vectors."""
    blocks = objective.space.unflatten(vector)
    matrices = {name: block.reshape(len(block), -1) for name, block in blocks.items() if block.ndim > 1}
    return matrices, {name: block for name, block in blocks.items() if block.ndim < 2}


@pytest.mark.parametrize("name", ZOO)
def test_every_filter_has_the_norm_of_its_weights_and_vectors_are_not_moved(name):
    objective = problem(name).objective()
    matrices, vectors = filters_of(objective, filter_normalized(objective, seed=1))
    weights, _ = filters_of(objective, objective.weights)
    assert matrices
    for block, rows in matrices.items():
        assert torch.allclose(rows.norm(dim=1), weights[block].norm(dim=1), rtol=1e-12)
    assert not any(block.any() for block in vectors.values())


def test_a_filter_of_a_convolution_is_a_whole_kernel():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3)).double()
    objective = Problem(model, normal(13, 2, 3, 3), classes(13, 3)).objective()
    kernel = objective.space.unflatten(filter_normalized(objective, seed=0))["0.weight"]
    own = model[0].weight.detach()
    assert torch.allclose(kernel.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1), rtol=1e-12)
    assert not torch.allclose(kernel.flatten(2).norm(dim=2), own.flatten(2).norm(dim=2), rtol=1e-3)


def test_within_a_filter_the_direction_is_the_random_one():
    objective = problem("tanh_mlp").objective()
    matrices, _ = filters_of(objective, filter_normalized(objective, seed=3))
    raw, _ = filters_of(objective, random_direction(objective, seed=3))
    for block, rows in matrices.items():
        cosine = torch.nn.functional.cosine_similarity(rows, raw[block], dim=1)
        assert torch.allclose(cosine, torch.ones_like(cosine), rtol=1e-12)


def test_a_zero_filter_gives_zero_and_no_nan():
    given = problem("tanh_mlp")
    with torch.no_grad():
        given.model[0].weight[1] = 0
    objective = given.objective()
    direction = filter_normalized(objective, seed=0)
    first = objective.space.unflatten(direction)["0.weight"]
    assert direction.isfinite().all()
    assert not first[1].any()
    assert first[0].any()


def test_where_there_are_vectors_alone_each_is_a_filter_and_zeros_are_refused():
    objective = problem("tanh_mlp").objective().select("*.bias")
    first = filter_normalized(objective, seed=0)
    second = filter_normalized(objective, seed=1, orthogonal_to=first)
    parts = zip(*map(objective.space.split, (first, second, objective.weights)), strict=True)
    for one, other, weights in parts:
        assert one.norm().item() == pytest.approx(weights.norm().item())
        assert other.norm().item() == pytest.approx(weights.norm().item())
        assert abs(one @ other) < 1e-12
    with pytest.raises(ValueError, match="the filters of the weights, which are all zero; take random_direction"):
        filter_normalized(objective.at(0 * objective.weights), seed=0)


def test_a_filter_in_which_nothing_is_left_of_the_direction_gives_zero_and_no_nan(monkeypatch):
    objective = problem("tanh_mlp").objective()
    raw = random_direction(objective, seed=0)
    raw[:3] = 0  # the first filter of the first layer
    monkeypatch.setattr("landscape.directions.random_direction", lambda objective, *, seed: raw.clone())
    direction = filter_normalized(objective, seed=0)
    assert direction.isfinite().all()
    assert not direction[:3].any()
    assert direction[3:12].all()


@pytest.mark.parametrize("name", ZOO)
def test_the_second_direction_is_orthogonal_to_the_first_filter_by_filter(name):
    objective = problem(name).objective()
    first = filter_normalized(objective, seed=0)
    second = filter_normalized(objective, seed=1, orthogonal_to=first)
    ours, _ = filters_of(objective, second)
    theirs, _ = filters_of(objective, first)
    weights, _ = filters_of(objective, objective.weights)
    for block, rows in ours.items():
        assert (rows * theirs[block]).sum(dim=1).abs().max() < 1e-13
        assert torch.allclose(rows.norm(dim=1), weights[block].norm(dim=1), rtol=1e-12)


def test_where_the_other_direction_is_zero_nothing_is_taken_away():
    objective = problem("tanh_mlp").objective()
    plain = filter_normalized(objective, seed=1)
    against_zero = filter_normalized(objective, seed=1, orthogonal_to=torch.zeros(31).double())
    assert torch.equal(plain, against_zero)


def test_a_filter_of_one_weight_keeps_its_component():
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    objective = Problem(model, normal(13, 1), classes(13, 3)).objective()
    first = filter_normalized(objective, seed=0)
    second = objective.space.unflatten(filter_normalized(objective, seed=1, orthogonal_to=first))
    assert torch.allclose(second["0.weight"].abs(), model[0].weight.detach().abs(), rtol=1e-12)


def test_the_seed_decides_the_direction_and_the_global_random_state_does_not():
    objective = problem("tanh_mlp").objective()
    first = filter_normalized(objective, seed=5)
    torch.manual_seed(99)
    assert torch.equal(first, filter_normalized(objective, seed=5))
    assert not torch.equal(first, filter_normalized(objective, seed=6))


def test_a_random_direction_is_standard_normal_and_the_same_in_single_precision():
    given = problem("conv_batch_norm")
    double = random_direction(given.objective(), seed=2)
    single = random_direction(Problem(given.model.float(), given.x.float(), given.y).objective(), seed=2)
    assert torch.equal(double, normal(double.numel(), seed=2))
    assert torch.equal(single, double.float())


def test_another_direction_of_another_length_is_refused():
    objective = problem("tanh_mlp").objective()
    with pytest.raises(ValueError, match=r"orthogonal_to must have shape \(31,\), one per weight; got \(30,\)"):
        filter_normalized(objective, seed=0, orthogonal_to=torch.zeros(30))


def test_the_seed_of_the_other_direction_is_refused():
    objective = problem("tanh_mlp").objective()
    first = filter_normalized(objective, seed=3)
    with pytest.raises(ValueError, match="seed 3 gives the direction to be orthogonal to"):
        filter_normalized(objective, seed=3, orthogonal_to=first)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "parametrized, in a network"])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_transposed_convolution_is_normalised_output_by_output(groups, wrapped, orthogonal):
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups).double()
    if wrapped:
        nn.utils.parametrizations.spectral_norm(layer)
    model = nn.Sequential(layer).eval() if wrapped else layer
    objective = Objective(model, lambda z, _: (z**2).mean(), [(normal(3, 4, 5, 5), torch.zeros(3))])
    name = "0.parametrizations.weight.original" if wrapped else "weight"
    first = filter_normalized(objective, seed=0)
    d = filter_normalized(objective, seed=1, orthogonal_to=first) if orthogonal else first
    d, first, w = (objective.space.unflatten(v)[name] for v in (d, first, objective.weights))
    for output in range(6):  # the weights that lead to it, by the definition of a grouped layer
        group, place = divmod(output, 6 // groups)
        inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
        assert d[inputs, place].norm() == pytest.approx(w[inputs, place].norm().item(), rel=1e-12)
        if orthogonal:
            assert abs((d[inputs, place] * first[inputs, place]).sum()) < 1e-12


def test_weights_without_an_element_are_passed_over():
    class WithEmpty(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.none, self.no_row = nn.Parameter(torch.empty(3, 0)), nn.Parameter(torch.empty(0, 3))

        def forward(self, x):
            return self.layer(x)

    objective = Objective(WithEmpty().double(), nn.functional.mse_loss, [(normal(5, 3), normal(5, 3))])
    first = filter_normalized(objective, seed=0)
    second = filter_normalized(objective, seed=1, orthogonal_to=first)
    assert first.shape == (12,)
    assert abs(first @ second) < 1e-12
