"""Traces from probes that are other ones for each example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from architectures import FUSED, fused
from problems import ZOO, classes, dense_hessian, normal, problem, ragged
from torch import nn

from landscape import (
    EmpiricalFisherOperator,
    ExactGaussNewton,
    GGNOperator,
    HessianOperator,
    Hutchinson,
    KrylovAware,
    Objective,
    PerExample,
    ResidualOperator,
    certify,
    diagonal,
    trace,
)
from landscape.batches import num_examples, take
from landscape.certified_trace import ChecksOfTrace
from landscape.chunks import halves
from landscape.layers import directions
from landscape.steps import Steps
from landscape.terms import Term

PER_EXAMPLE = PerExample()


def by_products(operator, *, seed, probe):
    """Σᵢ dᵢ z_ib'(Hᵢzᵢ)_b / Σᵢ dᵢ from a product of each example alone."""
    objective, steps, start, parts, counts = operator.here, Steps(operator), 0, [], []
    for batch in objective.batches:
        for i in range(num_examples(batch)):
            term = Term(objective.work.definition, take(batch, i, i + 1), start=start)
            z = steps.direction(term, seed, probe)
            image = operator.kind.at(term, operator.weights)(z[:, None])[:, 0]
            start += 1
            if term.count:
                parts.append(torch.stack([part.sum() for part in objective.space.split(z * image)]))
                counts.append(float(term.count))
    return (torch.tensor(counts, dtype=torch.float64)[:, None] * torch.stack(parts)).sum(0) / sum(counts)


def near(found, wanted):
    return bool((found - wanted).norm() <= 1e-9 * wanted.norm())


@pytest.mark.parametrize("kind", [HessianOperator, ResidualOperator])
@pytest.mark.parametrize("name", ZOO)
def test_a_probe_is_the_mean_of_forms_of_each_examples_own_matrix(name, kind):
    operator = kind(problem(name).objective())
    assert near(Steps(operator).curvatures(7, 2), by_products(operator, seed=7, probe=2))


@pytest.mark.parametrize("name", FUSED)
def test_so_it_is_for_real_architectures(name):
    operator = HessianOperator(fused(name)[0].objective())
    assert near(Steps(operator).curvatures(7, 2), by_products(operator, seed=7, probe=2))


def test_groups_of_channels_strides_and_paddings_of_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1, dilation=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Conv2d(6, 4, 2, padding="same", padding_mode="reflect"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3, stride=3),
        nn.Flatten(),
    ).double()
    operator = HessianOperator(Objective(model, F.cross_entropy, ragged(normal(13, 4, 6, 6), classes(13, 3))))
    assert near(Steps(operator).curvatures(3, 0), by_products(operator, seed=3, probe=0))


def test_the_vector_of_padding_has_no_gradient_though_the_loss_depends_on_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    nn.init.normal_(model[0].weight)
    words = torch.tensor([[1, 1, 2, 0], [0, 3, 0, 4], [2, 1, 2, 2]])
    hessian = HessianOperator(Objective(model, F.cross_entropy, [(words, classes(3, 3))]))
    assert near(Steps(hessian).curvatures(1, 0), by_products(hessian, seed=1, probe=0))
    for estimator in (PER_EXAMPLE, ExactGaussNewton()):  # which is not what a landscape is, as for a product
        with pytest.raises(ValueError, match="padding"):
            trace(hessian, 12, estimator=estimator)


def test_the_examples_have_their_probes_in_any_chunks_and_halves_of_them():
    given = problem("conv_batch_norm")
    by_size = []
    for size in (1, 2, 5, 13):
        objective = Objective(given.model, given.loss, ragged(given.x, given.y), chunk_size=size)
        by_size.append(trace(HessianOperator(objective), 5, estimator=PER_EXAMPLE).samples)
    for samples in by_size[1:]:
        np.testing.assert_allclose(samples, by_size[0], rtol=1e-11)
    term = Term(objective.work.definition, objective.batches[0], start=70)
    assert [(half.start, num_examples(half.batch)) for half in halves(term)] == [(70, 2), (72, 3)]


def test_entries_are_signs_that_are_not_correlated_and_other_ones_for_each_example_and_probe():
    weights = [torch.zeros(2, 3), torch.zeros(4), torch.zeros(2, 1, 2, 1), torch.zeros(())]
    number = 20_000
    signs = [
        2.0 * torch.randint(0, 2, (number, directions.num_signs(w.shape)), generator=torch.Generator().manual_seed(i))
        - 1
        for i, w in enumerate(weights)
    ]
    z = directions.Directions(weights, signs)
    rows = torch.cat([z.vector(weight).reshape(number, -1) for weight in weights], dim=1)
    assert rows.shape == (number, 15)
    assert set(rows.unique().tolist()) == {-1.0, 1.0}
    assert (rows.T @ rows / number - torch.eye(15)).abs().max() < 5 / number**0.5
    steps = Steps(HessianOperator(problem("tanh_mlp").objective()))
    objective = problem("tanh_mlp").objective()
    drawn = {
        tuple(
            steps.direction(
                Term(objective.work.definition, take(objective.batches[0], 0, 1), start=start), *key
            ).tolist()
        )
        for start in (0, 1, 63, 64, 65)
        for key in ((0, 0), (0, 1), (1, 0))
    }
    assert len(drawn) == 15


def test_it_is_unbiased_and_its_interval_covers_the_truth_of_each_block():
    given = problem("tanh_mlp")
    hessian, wanted = HessianOperator(given.objective()), dense_hessian(given).diagonal()
    found = [trace(hessian, 12, estimator=PER_EXAMPLE, seed=seed) for seed in range(200)]
    truth = float(wanted.sum())
    errors = np.array([result.estimate for result in found]) - truth
    assert abs(errors.mean()) < 3.5 * errors.std(ddof=1) / np.sqrt(200)
    intervals = np.array([result.interval(0.95) for result in found])
    assert ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean() >= 0.9
    ratio = np.mean([result.stderr for result in found]) / errors.std(ddof=1)
    assert ratio == pytest.approx(1.0, rel=0.2)
    blocks = np.array([result.block_estimates for result in found])
    exact = np.array([part.sum() for part in wanted.split(given.objective().space.sizes)])
    assert (np.abs(blocks.mean(0) - exact) < 4.5 * blocks.std(0) / np.sqrt(200)).all()


def test_the_error_falls_with_the_root_of_the_number_of_examples_which_that_of_one_probe_for_all_does_not():
    given = problem("tanh_mlp")
    few, many = (
        HessianOperator(Objective(given.model, given.loss, [(given.x.repeat(n, 1), given.y.repeat(n))]))
        for n in (1, 16)
    )
    for estimator, least, most in ((PER_EXAMPLE, 3.0, 5.3), (Hutchinson(), 0.8, 1.25)):
        spread = [
            np.std([trace(hessian, 4, estimator=estimator, seed=seed).estimate for seed in range(60)])
            for hessian in (few, many)
        ]
        assert least < spread[0] / spread[1] < most


def test_the_rest_of_the_gauss_newton_matrix_is_taken_by_it():
    given = problem("conv_batch_norm")
    found = trace(HessianOperator(given.objective()), 25, estimator=ExactGaussNewton())
    low, high = found.interval(0.9995)
    assert low <= float(dense_hessian(given).trace()) <= high
    assert found.stderr < trace(HessianOperator(given.objective()), 25, estimator=PER_EXAMPLE).stderr


def test_a_block_other_weights_and_ignored_labels():
    given, y = problem("tanh_mlp"), classes(13, 3, seed=4)
    y[:6] = -100
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.2]).double())
    objective = Objective(given.model, loss, ragged(given.x, y), chunk_size=2)
    hessian = HessianOperator(objective, weights=objective.weights + 0.3)
    for operator in (hessian, hessian.block("2.*")):
        assert near(Steps(operator).curvatures(1, 0), by_products(operator, seed=1, probe=0))
        found = trace(operator, operator.dim - 1, estimator=PER_EXAMPLE)
        low, high = found.interval(0.9995)
        assert low <= trace(operator, operator.dim).estimate <= high
        assert found.manifest["machine"]["products"] == "second derivatives along steps of each example's own"


def test_a_precision_stops_it_and_a_certificate_asks_it_again():
    hessian = HessianOperator(problem("attention").objective())
    found = trace(hessian, 60, estimator=PER_EXAMPLE, rtol=2.0)
    assert (found.estimator, found.stopped, found.num_products) == ("PerExample", "precision", 12)
    assert certify(found, hessian).passed
    again = ChecksOfTrace(found, hessian, seed=0).repeated
    assert (again.estimator, again.num_products) == ("PerExample", 60)


def test_what_it_is_not_for_is_refused_with_a_way_out():
    objective = problem("tanh_mlp").objective()
    hessian = HessianOperator(objective)
    for operator in (GGNOperator(objective), EmpiricalFisherOperator(objective), 2 * hessian):
        with pytest.raises(TypeError, match=r"takes a HessianOperator; got .*Use KrylovAware"):
            trace(operator, 20, estimator=PER_EXAMPLE)
    for estimator in (PER_EXAMPLE, ExactGaussNewton()):
        with pytest.raises(TypeError, match=r"finds traces alone\. Use another estimator"):
            diagonal(hessian, 20, estimator=estimator)
    lstm = nn.LSTM(3, 2, batch_first=True).double()
    recurrent = Objective(lstm, F.mse_loss, [(normal(4, 2, 3), normal(4, 2))], forward=_last)
    with pytest.raises(ValueError, match=r"layer by layer: .* is a LSTM, for which there is no rule.*KrylovAware"):
        trace(HessianOperator(recurrent), 10, estimator=PER_EXAMPLE)


def test_a_batch_that_has_other_rows_is_refused_when_its_turn_comes():
    model = nn.Linear(3, 3).double()
    data = [(normal(4, 3), classes(4, 3)), (normal(4, 2, 3), classes(8, 3).view(4, 2))]
    objective = Objective(model, F.cross_entropy, data, forward=_flat)
    for estimator in (PER_EXAMPLE, ExactGaussNewton()):
        with pytest.raises(ValueError, match=r"layer by layer: .*(no row for each example|others 3).*KrylovAware"):
            trace(HessianOperator(objective), 10, estimator=estimator)


def _flat(model, batch):
    return model(batch[0].reshape(-1, 3)), batch[1].flatten()


def _last(model, batch):
    return model(batch[0])[0][:, -1], batch[1]


def test_a_rule_of_a_layer_that_is_wrong_is_found_out(monkeypatch):
    honest, of_term = directions.Directions.step, Steps._of_term
    hessian = HessianOperator(problem("tanh_mlp").objective())
    with monkeypatch.context() as patched:
        patched.setattr(directions.Directions, "step", lambda z, weight: 1.1 * honest(z, weight))
        with pytest.raises(ValueError, match="a weight acts elsewhere than in its layer"):
            trace(hessian, 20, estimator=PER_EXAMPLE)
    monkeypatch.setattr(Steps, "_of_term", lambda *given: 1.1 * of_term(*given))
    with pytest.raises(ValueError, match=r"the curvature along a step is .* by a product"):
        trace(hessian, 20, estimator=PER_EXAMPLE)


def test_a_second_derivative_that_is_not_finite_is_an_error(monkeypatch):
    steps = Steps(HessianOperator(problem("tanh_mlp").objective()))
    monkeypatch.setattr(Steps, "_of_term", lambda *_: torch.tensor([1.0, torch.inf, 0.0, 0.0]).double())
    with pytest.raises(ValueError, match="a second derivative is not finite"):
        steps.curvatures(0, 0)


def test_krylov_spaces_are_beaten_where_examples_are_many():
    given = problem("tanh_mlp")
    hessian = HessianOperator(Objective(given.model, given.loss, [(given.x.repeat(40, 1), given.y.repeat(40))]))
    truth = float(dense_hessian(given).trace())
    rms = {
        repr(estimator): np.std(
            [trace(hessian, 12, estimator=estimator, seed=s).estimate / truth - 1 for s in range(30)]
        )
        for estimator in (PER_EXAMPLE, KrylovAware())
    }
    assert rms["PerExample()"] < rms["KrylovAware()"]
