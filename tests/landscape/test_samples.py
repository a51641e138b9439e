"""Objectives over random samples, and standard errors that cover the truth as often as they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, classes, normal, problem, quadratic, ragged, symmetric
from torch import nn
from torch.nn import functional

from landscape import Objective, filter_normalized, line_slice, plane_slice
from landscape.fingerprint import Fingerprint
from landscape.points import Points
from landscape.readings import Reading
from landscape.spread import GroupLosses, SingleLosses, size_of_group, stderr_of_mean
from landscape.terms import Term

A = symmetric(torch.linspace(1, 2, 3).double())
SLOPES = normal(N, 3, seed=1)


def regression(number=400):
    """(w·x − y)²: any loss of an example is known without the objective."""
    inputs, targets = normal(number, 3, seed=4), normal(number, 1, seed=5)
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    return Objective(model, functional.mse_loss, ragged(inputs, targets, (150, 150, number - 300))), inputs, targets


def test_a_sample_is_some_of_the_examples_each_once():
    objective, inputs, targets = regression()
    sample = objective.sample(30, seed=1)
    assert (sample.num_examples, sample.population) == (30, 400)
    rows = torch.cat([batch[0] for batch in sample.batches])
    places = [int((inputs == row).all(1).nonzero()) for row in rows]
    assert len(set(places)) == 30
    assert places != sorted(places)
    assert torch.equal(torch.cat([batch[1] for batch in sample.batches]), targets[places])
    assert sample.loss(sample.weights).item() == pytest.approx(
        functional.mse_loss(objective.model(inputs[places]), targets[places]).item(), rel=1e-14
    )


def test_a_sample_depends_on_its_seed_alone_and_says_in_the_manifest_what_it_is_of():
    objective, _, _ = regression()
    state = torch.get_rng_state()
    hashes = [objective.sample(30, seed=seed).manifest()["objective"]["data"] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert hashes[0] == hashes[1] != hashes[2]
    assert objective.sample(30, seed=1).manifest()["objective"]["sample_of"] == 400
    assert objective.sample(30, seed=1).sample(5, seed=0).population == 400
    assert "sample_of" not in objective.manifest()["objective"]
    assert objective.sample(30, seed=1).part(objective.batches).population is None
    assert objective.sample(30, seed=1).at(objective.weights + 1).population == 400
    whole = objective.sample(400, seed=3)
    assert Fingerprint.of(whole.batches).content == Fingerprint.of(objective.batches).content


def test_examples_of_several_shapes_and_mappings_are_drawn_too():
    model = nn.AdaptiveAvgPool1d(4).double()
    model = nn.Sequential(model, nn.Linear(4, 2).double())
    data = [
        {"input": normal(5, 1, length, seed=length), "labels": classes(5, 2, seed=length)[:, None]} for length in (6, 9)
    ]
    objective = Objective(model, functional.cross_entropy, data, forward=_of_mapping)
    sample = objective.sample(7, seed=0)
    assert [batch["input"].shape[2] for batch in sample.batches] == [6, 9]
    assert sum(len(batch["labels"]) for batch in sample.batches) == 7


def _of_mapping(model, batch):
    return model(batch["input"]).transpose(1, 2), batch["labels"]


@pytest.mark.parametrize(("size", "words"), [(0, "got 0"), (401, "1 to 400 examples, all there are; got 401")])
def test_a_sample_that_cannot_be_drawn_is_refused(size, words):
    with pytest.raises(ValueError, match=words):
        regression()[0].sample(size, seed=0)
    with pytest.raises(TypeError, match="the size of a sample must be an integer"):
        regression()[0].sample(2.5, seed=0)


def test_all_the_data_have_no_standard_error_and_a_sample_of_all_of_them_has_none_left():
    objective, _, _ = regression()
    assert line_slice(objective, torch.ones(3), coordinates=[0.0]).stderrs is None
    assert line_slice(objective.sample(400, seed=0), torch.ones(3), coordinates=[0.0, 1.0]).stderrs.tolist() == [0, 0]
    assert math.isnan(line_slice(objective.sample(1, seed=0), torch.ones(3), coordinates=[0.0]).stderrs[0])


def measured(objective, size, seeds, *, d=0.0):
    """Errors and standard errors of the losses at w + d of samples."""
    truth, found = objective.loss(objective.weights + d).item(), []
    for seed in range(seeds):
        reading = Reading(objective.sample(size, seed=seed), None)
        terms = [Term(reading.definition, batch) for batch in reading.batches]
        found.append(reading.columns(terms, lambda term: term.outputs(objective.weights + d))[:2])
    losses, stderrs = np.array(found).T
    return losses - truth, stderrs


@pytest.mark.parametrize("size", [80, 300])  # of 400: with 300 the finite population halves the error
def test_the_interval_of_two_standard_errors_covers_the_loss_over_all_data(size):
    objective, inputs, targets = regression()
    d = torch.tensor([1.5, -0.7, 0.3]).double()
    losses = ((inputs @ (objective.weights + d))[:, None] - targets).square()
    exact = math.sqrt((1 - size / 400) / size) * losses.std().item()
    with torch.no_grad():
        errors, stderrs = measured(objective, size, 150, d=d)
    assert math.sqrt((stderrs**2).mean()) == pytest.approx(exact, rel=0.1)  # its square is unbiased
    assert errors.std() == pytest.approx(exact, rel=0.2)
    assert (np.abs(errors) <= 1.96 * stderrs).mean() == pytest.approx(0.95, abs=0.05)


def test_tokens_are_a_ratio_of_what_the_examples_sum_to():
    inputs, targets = normal(300, 2, 6, seed=3), classes(1800, 3, seed=4).view(300, 6)
    lengths = torch.randint(0, 7, (300,), generator=torch.Generator().manual_seed(5))
    targets[torch.arange(6) >= lengths[:, None]] = -100  # some have nothing that counts
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 1).double()
    objective = Objective(model, nn.CrossEntropyLoss(), [(inputs, targets)])
    with torch.no_grad():
        errors, stderrs = measured(objective, 60, 150)
    assert errors.std() == pytest.approx(math.sqrt((stderrs**2).mean()), rel=0.2)
    assert (np.abs(errors) <= 1.96 * stderrs).mean() >= 0.9


def masked(outputs, targets):
    """A loss that single examples cannot be taken through at once: their number depends on the values."""
    kept = targets > -1
    return functional.mse_loss(outputs[kept], targets[kept])


def test_a_loss_that_does_not_tell_examples_apart_is_measured_on_random_groups():
    inputs, targets = normal(400, 3, seed=4), normal(400, 1, seed=5)
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    objective = Objective(model, masked, [(inputs, targets)], denominator=lambda _, y: (y > -1).sum())
    sample = objective.sample(200, seed=0)
    reading = Reading(sample, None)
    assert isinstance(reading._spread, GroupLosses)
    assert isinstance(Reading(regression()[0].sample(9, seed=0), None)._spread, SingleLosses)
    assert max(len(batch[0]) for batch in reading.batches) == size_of_group([200]) == 3
    with torch.no_grad():
        errors, stderrs = measured(objective, 200, 60)
    assert errors.std() == pytest.approx(math.sqrt((stderrs**2).mean()), rel=0.3)


def test_rows_that_are_no_examples_are_not_taken_for_them():
    inputs, targets = normal(40, 5, 3, seed=4), classes(200, 2, seed=5).view(40, 5)
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()

    def flat(module, batch):
        return module(batch[0]).reshape(-1, 2), batch[1].reshape(-1)

    objective = Objective(model, functional.cross_entropy, [(inputs, targets)], forward=flat)
    assert isinstance(Reading(objective.sample(20, seed=0), None)._spread, GroupLosses)


def test_the_formula_is_that_of_a_ratio():
    losses, counts = torch.tensor([1.0, 2.0, math.nan]), torch.tensor([1, 3, 0])
    mean = 7 / 4
    expected = math.sqrt(0.9 * 3 / 2 * ((1 - mean) ** 2 + 9 * (2 - mean) ** 2)) / 4
    assert stderr_of_mean(losses, counts, share=0.1) == pytest.approx(expected, rel=1e-7)
    assert math.isnan(stderr_of_mean(torch.tensor([1.0, math.inf]), torch.ones(2), share=0.1))
    assert math.isnan(stderr_of_mean(torch.tensor([1.0, math.inf]), torch.ones(2), share=1.0))


def test_held_out_samples_have_standard_errors_of_their_own():
    given = problem("tanh_mlp")
    objective = given.objective()
    d = filter_normalized(objective, seed=0)
    grid = {"x": [0.0, 1.0], "y": [0.0]}
    result = plane_slice(objective, (d, torch.ones(31)), held_out=objective.sample(6, seed=0), **grid)
    alone = plane_slice(objective.sample(6, seed=0), (d, torch.ones(31)), **grid)
    assert result.stderrs is None
    assert np.array_equal(result.held_out_stderrs, alone.stderrs)
    assert (result.held_out_stderrs > 0).all()
    assert result.manifest["held_out"]["sample_of"] == N


def test_standard_errors_do_not_depend_on_the_way_that_is_taken():
    sample = problem("conv_batch_norm").objective().sample(7, seed=0)
    w, d = sample.weights, filter_normalized(sample, seed=0)
    points = Points([Reading(sample, None)], w, [d], np.array([[0.7]]))
    assert points.ways == ["in place, channels last, 1 batch norm folded"]
    quick = points.at(0)
    points._ways = points._plain
    assert quick[:2] == pytest.approx(points.at(0)[:2], rel=1e-13)


def test_a_quadratic_whose_examples_differ_in_slope_only_has_the_closed_form():
    objective = quadratic(A, w=torch.zeros(3).double(), slopes=SLOPES)
    sample = objective.sample(6, seed=2)
    slopes = torch.cat([batch if isinstance(batch, torch.Tensor) else batch[0] for batch in sample.batches])
    d = torch.tensor([1.0, 2.0, 3.0]).double()
    result = line_slice(sample, d, coordinates=[2.0])
    expected = math.sqrt(1 - 6 / N) * (slopes @ (2 * d)).std().item() / math.sqrt(6)
    assert result.stderrs[0] == pytest.approx(expected, rel=1e-12)
