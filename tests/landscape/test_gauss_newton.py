"""The diagonal of the Gauss-Newton matrix without chance, and what is left of the Hessian's trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from architectures import FUSED, fused
from problems import ZOO, classes, dense_ggn, dense_hessian, normal, problem, ragged
from torch import nn

from landscape import (
    EmpiricalFisherOperator,
    ExactGaussNewton,
    GGNOperator,
    HessianOperator,
    Hutchinson,
    KrylovAware,
    Objective,
    XTrace,
    certify,
    diagonal,
    frobenius_norm,
    squares,
    trace,
)
from landscape.certified_trace import ChecksOfTrace
from landscape.layers import UnsupportedError
from landscape.layers.linear import LinearSite
from landscape.stacks import Stacks

EXACT = ExactGaussNewton()


def of_passes(operator):
    """diag G by as many passes as an example has outputs."""
    found = diagonal(operator, operator.dim - 1, estimator=EXACT)
    assert found.stopped == "exact"
    assert found.num_products < operator.dim
    assert found.manifest["measurement"]["rest"] == "PerExample"
    assert found.manifest["machine"]["products"] == "squares of each example's gradients"
    return torch.tensor(found.estimates)


def of_coordinates(operator):
    """The diagonal by products with all coordinates."""
    return torch.tensor(diagonal(operator, operator.dim).estimates)


def near(found, wanted):
    return bool((found - wanted).norm() <= 1e-10 * wanted.norm())


@pytest.mark.parametrize("name", [name for name in ZOO if name != "unused"])
@pytest.mark.parametrize("budget", [2**26, 1], ids=["together", "one by one"])
def test_it_is_that_of_the_dense_matrix(name, budget, monkeypatch):
    monkeypatch.setattr(squares, "BUDGET", budget)
    given = problem(name)
    assert near(of_passes(GGNOperator(given.objective())), dense_ggn(given).diagonal())


@pytest.mark.parametrize("name", ["tied", "attention", "conv_batch_norm"])
def test_gradients_of_single_examples_are_held_for_as_many_as_the_budget_allows(name, monkeypatch):
    operator, held = GGNOperator(problem(name).objective()), []
    monkeypatch.setattr(squares, "BUDGET", 2 * operator.weights.nbytes)
    honest = Stacks.add

    def add(stacks, weight, gradients):
        honest(stacks, weight, gradients)
        held.append(stacks.num_bytes)

    monkeypatch.setattr(Stacks, "add", add)
    of_passes(operator)
    assert not held or max(held) <= squares.BUDGET


@pytest.mark.parametrize("name", FUSED)
def test_it_is_that_of_real_architectures(name):
    given, answers = fused(name)
    for pattern in ("*", "*weight"):
        operator = GGNOperator(given.objective(parameters=pattern))
        wanted = answers.gauss_newton.diagonal() if pattern == "*" else of_coordinates(operator)
        assert near(of_passes(operator), wanted)


def test_it_is_taken_at_other_weights_of_a_block_and_in_chunks():
    given = problem("conv_batch_norm")
    moved = Objective(given.model, given.loss, ragged(given.x, given.y), chunk_size=2)
    operator = GGNOperator(moved, weights=moved.weights + 0.3)
    assert near(of_passes(operator), of_coordinates(operator))
    block = operator.block("4.*")
    assert near(of_passes(block), of_coordinates(operator)[-block.dim :])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_that_has_one_output_or_several_of_them_in_rows_of_its_own(channels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, 1, 2)).double()
    x, y = normal(5, 1, 3, 3), normal(5, 1, 2, 2)
    objective = Objective(model, F.mse_loss, [(x[:3], y[:3]), (x[3:], y[3:])], forward=_in_rows)
    assert near(of_passes(GGNOperator(objective)), of_coordinates(GGNOperator(objective)))


def _in_rows(model, batch):
    return model(batch[0]).flatten(), batch[1].flatten()


def test_weights_of_classes_ignored_labels_and_a_loss_that_is_not_convex():
    given, y = problem("tanh_mlp"), classes(13, 3, seed=4)
    y[:6] = -100
    losses = (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]).double()),
        lambda outputs, targets: (outputs.sin().sum(1) * (targets + 200)).mean(),
        lambda outputs, targets: (torch.softmax(outputs, 1)[:, 0] - targets / 9).square().mean(),
    )
    for loss in losses:
        operator = GGNOperator(Objective(given.model, loss, ragged(given.x, y), chunk_size=2))
        wanted = of_coordinates(operator)
        assert near(of_passes(operator), wanted)
    assert wanted.min() < 0 < wanted.max()


def test_chunks_with_nothing_to_count_may_have_a_loss_that_is_no_number():
    given, y = problem("tanh_mlp"), classes(13, 3, seed=4)
    y[:6] = 3

    def loss(outputs, targets):
        counted = targets < 3
        losses = outputs.logsumexp(1) - outputs.gather(1, targets.clamp(max=2)[:, None])[:, 0]
        return (losses * counted).sum() / counted.sum()

    data, counts = ragged(given.x, y), lambda _, targets: (targets < 3).sum()
    objective = Objective(given.model, loss, data, denominator=counts, chunk_size=2)
    wanted = of_coordinates(GGNOperator(objective))
    assert near(of_passes(GGNOperator(objective)), wanted)
    assert near(wanted, of_coordinates(GGNOperator(Objective(given.model, F.cross_entropy, [(given.x[6:], y[6:])]))))


def test_the_rest_of_a_network_of_relus_has_no_diagonal_and_its_trace_is_known_at_once():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = normal(13, 3)
    objective = Objective(model, F.mse_loss, ragged(x, model(x).detach() + 0.05 * normal(13, 3, seed=1)))
    wanted = of_coordinates(HessianOperator(objective))
    assert near(of_passes(GGNOperator(objective)), wanted)
    errors = {}
    for estimator in (EXACT, ExactGaussNewton(Hutchinson()), KrylovAware()):
        found = [trace(HessianOperator(objective), 20, estimator=estimator, seed=seed) for seed in range(20)]
        assert {result.num_products for result in found} == {20}
        errors[repr(estimator)] = np.mean([(result.estimate - float(wanted.sum())) ** 2 for result in found])
    least = errors.pop("KrylovAware()")
    assert [*errors] == ["ExactGaussNewton(PerExample())", "ExactGaussNewton(Hutchinson())"]
    assert all(error < least for error in errors.values())


@pytest.mark.parametrize("rest", [Hutchinson(), XTrace(), KrylovAware()], ids=repr)
def test_it_is_unbiased_and_its_interval_covers_the_truth_of_each_block(rest):
    given = problem("tanh_mlp")
    hessian, wanted = HessianOperator(given.objective()), dense_hessian(given).diagonal()
    found = [trace(hessian, 15, estimator=ExactGaussNewton(rest), seed=seed) for seed in range(200)]
    errors = np.array([result.estimate for result in found]) - float(wanted.sum())
    assert abs(errors.mean()) < 3.5 * errors.std(ddof=1) / np.sqrt(200)
    intervals = np.array([result.interval(0.95) for result in found])
    truth = float(wanted.sum())
    assert ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean() >= 0.9
    blocks = np.array([result.block_estimates for result in found])
    exact = np.array([part.sum() for part in wanted.split(given.objective().space.sizes)])
    assert (np.abs(blocks.mean(0) - exact) < 4.5 * blocks.std(0) / np.sqrt(200) + 1e-14).all()
    np.testing.assert_allclose(blocks.sum(1), [result.estimate for result in found], rtol=1e-12)


def test_a_precision_and_the_progress_count_what_is_known():
    hessian, seen = HessianOperator(problem("tanh_mlp").objective()), []
    found = trace(hessian, 30, estimator=EXACT, rtol=10.0, progress=lambda done, total: seen.append((done, total)))
    assert (found.stopped, found.num_products, found.estimator) == ("precision", 12, "ExactGaussNewton")
    assert seen[0] == (2, 30)
    assert seen[-1] == (12, 30)
    ways = "squares of each example's gradients; of the rest, second derivatives along steps of each example's own"
    assert found.manifest["machine"]["products"] == ways
    assert certify(found, hessian).passed
    other = trace(hessian, 30, estimator=ExactGaussNewton(Hutchinson()))
    assert ChecksOfTrace(other, hessian, seed=0).repeated.manifest["measurement"]["rest"] == "Hutchinson"


def test_the_passes_are_made_whatever_the_time():
    found = trace(HessianOperator(problem("tanh_mlp").objective()), 30, estimator=EXACT, max_seconds=1e-9)
    assert (found.stopped, found.num_products) == ("time", 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "passes"), [(F.cross_entropy, 6), (F.mse_loss, 7)])
def test_there_is_a_pass_for_each_output_and_one_less_where_the_loss_has_none_to_see(loss, passes, dtype):
    torch.manual_seed(1)
    model = nn.Linear(40, 7).to(dtype)
    x = 3 * normal(500, 40).to(dtype)
    targets, sizes = (classes(500, 7) if loss is F.cross_entropy else normal(500, 7, seed=2).to(dtype)), (240, 240, 20)
    objective = Objective(model, loss, ragged(x, targets, sizes))
    found = trace(GGNOperator(objective), 9, estimator=EXACT)
    assert found.num_products == passes
    wide = targets if loss is F.cross_entropy else targets.double()
    hessian = HessianOperator(Objective(model.double(), loss, ragged(x.double(), wide, sizes)))
    assert found.estimate == pytest.approx(float(of_coordinates(hessian).sum()), rel=1e-5)


@pytest.mark.parametrize("hard", [0, 1])
def test_examples_that_a_network_is_nearly_sure_of_count_together_beside_one_that_it_is_not(hard):
    logits, targets = 1e-2 * normal(400, 10, seed=3), classes(400, 10)
    logits[torch.arange(400), targets] += 15  # other classes have probabilities of 3e-7
    logits[:hard] = torch.tensor([0.0] * 2 + [-60.0] * 8)
    inputs = F.normalize(normal(400, 8, seed=4))

    def operator(dtype):
        model = nn.Linear(8, 10, bias=False).to(dtype)
        nn.init.zeros_(model.weight)
        data = [(inputs.to(dtype), logits.to(dtype), targets)]
        return GGNOperator(
            Objective(model, F.cross_entropy, data, forward=lambda model, batch: (model(batch[0]) + batch[1], batch[2]))
        )

    assert near(of_passes(operator(torch.float64)), of_coordinates(operator(torch.float64)))
    found, wanted = of_passes(operator(torch.float32)), of_coordinates(operator(torch.float32))
    assert found.sum().item() == pytest.approx(wanted.sum().item(), rel=1e-5)


def test_what_it_is_not_for_is_refused_with_a_way_out():
    objective = problem("tanh_mlp").objective()
    hessian, gauss_newton = HessianOperator(objective), GGNOperator(objective)
    for operator in (hessian - gauss_newton, EmpiricalFisherOperator(objective)):
        with pytest.raises(TypeError, match=r"takes a HessianOperator or a GGNOperator; got .*KrylovAware"):
            trace(operator, 20, estimator=EXACT)
    with pytest.raises(TypeError, match="F is more"):
        frobenius_norm(hessian, 20, estimator=EXACT)
    with pytest.raises(ValueError, match=r"3 outputs.* give num_probes=5 or more, or use KrylovAware\(\); got 4"):
        trace(hessian, 4, estimator=EXACT)
    with pytest.raises(TypeError, match="rest must be an estimator"):
        ExactGaussNewton("all")


def test_models_it_cannot_take_are_refused_with_the_layer_and_a_way_out():
    unused = HessianOperator(problem("unused").objective())
    with pytest.raises(ValueError, match=r"layer by layer: unused is not called\. Use KrylovAware\(\)"):
        trace(unused, 10, estimator=EXACT)
    lstm = nn.LSTM(3, 2, batch_first=True).double()
    recurrent = Objective(lstm, F.mse_loss, [(normal(4, 2, 3), normal(4, 2))], forward=_last)
    with pytest.raises(ValueError, match="is a LSTM, for which there is no rule"):
        trace(HessianOperator(recurrent), 10, estimator=EXACT)
    lengths = [(normal(4, n, 3), normal(4, n, 3)) for n in (2, 3)]
    ragged_outputs = Objective(
        problem("tanh_mlp").model, F.mse_loss, lengths, denominator=lambda outputs, _: outputs.numel()
    )
    with pytest.raises(ValueError, match="some examples have 9 outputs, others 6"):
        trace(HessianOperator(ragged_outputs), 20, estimator=EXACT)


def _last(model, batch):
    return model(batch[0])[0][:, -1], batch[1]


def test_a_rule_of_a_layer_that_is_wrong_is_found_out(monkeypatch):
    honest = LinearSite.squared
    monkeypatch.setattr(
        LinearSite, "squared", lambda *given: ((weight, 1.1 * found) for weight, found in honest(*given))
    )
    with pytest.raises(ValueError, match=r"is off by .* from that of its products"):
        trace(HessianOperator(problem("tanh_mlp").objective()), 20, estimator=EXACT)


@pytest.mark.parametrize("number", [1, 3])
def test_a_loss_without_curvature_at_its_weights_is_named(number):
    model, x = nn.Linear(3, 2).double(), normal(number, 3)
    loss = lambda outputs, targets: (outputs - targets).abs().pow(1.5).mean()  # noqa: E731
    operator = GGNOperator(Objective(model, loss, [(x, model(x).detach())]))
    with pytest.raises(ValueError, match=r"curvature of the loss in the outputs is not finite. Use KrylovAware\(\)"):
        diagonal(operator, 7, estimator=EXACT)


def test_a_loss_that_couples_examples_is_found_out():
    objective = problem("tanh_mlp_mse").objective()
    coupled = lambda outputs, targets: F.mse_loss(outputs, targets) * outputs.mean().cos()  # noqa: E731
    object.__setattr__(objective.work.definition, "loss", coupled)
    with pytest.raises(UnsupportedError, match="couples the outputs of different examples"):
        squares.ExampleSquares(objective).diagonal()
