"""What moves under rescalings is told from what does not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, conv_net, normal, ragged
from torch import nn

from landscape import (
    AdaptiveAscent,
    Audit,
    EmpiricalFisherOperator,
    GradientAscent,
    HessianOperator,
    LogitNormalized,
    Objective,
    Rescalings,
    Result,
    audit,
    auditing,
    average_case_sharpness,
    every_tensor,
    find_rescalings,
    fisher_rao_norm,
    frobenius_norm,
    m_sharpness,
    relative_flatness,
    top_eigenvalues,
    trace,
    usual_measures,
)
from landscape.auditing import _Value

KINDS = ["between layers", "between units", "logits"]


def classifier(model, *shape, n=N):
    x, y = normal(n, *shape, seed=7), classes(n, 3, seed=8)
    return Objective(model.double(), F.cross_entropy, ragged(x, y) if n == N else [(x, y)])


def mlp():
    return classifier(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), 4)


def length(objective):
    return objective.weights.norm().item()


def loss(objective):
    return objective.loss(objective.weights).item()


def test_in_a_chain_of_two_weights_the_largest_eigenvalue_moves_as_in_closed_form():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    for layer, weight in ((model[0], 3.0), (model[2], 0.5)):
        nn.init.constant_(layer.weight, weight)
    objective = Objective(model, F.mse_loss, [(torch.ones(3, 1).double(), torch.full((3, 1), 1.5).double())])
    measures = {"λ": lambda o: top_eigenvalues(HessianOperator(o), tol=1e-10), "loss": loss}
    result = audit(objective, measures, factor=4.0)
    # at no residual the Hessian of (v u - y)² is 2 (v, u)'(v, u), with the eigenvalue 2 (u² + v²)
    assert result.before[0] == pytest.approx(2 * (3.0**2 + 0.5**2), rel=1e-9)
    assert result.after[0] == pytest.approx(2 * (12.0**2 + 0.125**2), rel=1e-9)
    assert result.verdicts.tolist() == [["moves"] * 2, ["invariant"] * 2]
    assert result.rescalings.tolist() == KINDS[:2]


def test_adaptive_sharpness_of_every_tensor_is_of_the_function_and_other_measures_are_not():
    objective = mlp()
    result = audit(objective, usual_measures(objective, num_probes=objective.space.dim))
    assert result.rescalings.tolist() == KINDS
    assert result.differences.max() < 1e-14
    assert result.verdicts.tolist()[:2] == [["moves"] * 3] * 2  # the trace is exact
    assert "invariant" not in result.verdicts[2].tolist()
    assert result.verdicts.tolist()[3][:2] == result.verdicts.tolist()[4][:2] == ["invariant", "invariant"]
    assert np.abs(result.ratios[3:, :2] - 1).max() < 1e-10
    assert "invariant" not in result.verdicts[:, 2].tolist()  # logits change the loss


def test_an_eta_makes_adaptive_sharpness_move_and_leaving_out_the_biases_too():
    measures = {
        "η = 0": lambda o: m_sharpness(o, AdaptiveAscent(0.5, eta=0.0, scaled=every_tensor), microbatch_size=4),
        "η = 0.5": lambda o: m_sharpness(o, AdaptiveAscent(0.5, eta=0.5, scaled=every_tensor), microbatch_size=4),
        "matrices": lambda o: m_sharpness(o, AdaptiveAscent(0.5, eta=0.0), microbatch_size=4),
    }
    result = audit(mlp(), measures)
    assert [verdict == "invariant" for verdict in result.verdicts[:, 0]] == [True, False, False]


def test_weights_before_batch_norm_move_the_trace_and_not_the_adaptive_sharpness():
    objective = classifier(conv_net(), 1, 3, 3)
    usual = usual_measures(objective, num_probes=objective.space.dim)
    result = audit(objective, {name: usual[name] for name in ("Hessian trace", "m-sharpness, adaptive")}, factor=2.0)
    column = result.rescalings.tolist().index("before normalisation")
    assert result.layers[column] == "0, 1"
    assert result.verdicts[:, column].tolist() == ["moves", "invariant"]
    blocks = trace(HessianOperator(objective), objective.space.dim).per_block.set_index("block")["trace"]
    scaled = [blocks[name] / 4 if name.startswith("0.") else blocks[name] for name in blocks.index]
    assert result.after[0, column] == pytest.approx(sum(scaled), rel=1e-8)  # second derivatives go with 1/a²


def test_fisher_rao_and_relative_flatness_are_invariant_and_normalised_logits_are_under_logits_too():
    objective = mlp()
    matrices = objective.space.dim  # probes, so that traces are exact
    measures = {
        "Fisher-Rao": lambda o: fisher_rao_norm(EmpiricalFisherOperator(o), microbatch_size=4),
        "relative": lambda o: relative_flatness(HessianOperator(o), matrices, layers="*weight"),
        "average": lambda o: average_case_sharpness(o, GradientAscent(0.1), num_draws=50),
    }
    result = audit(objective, measures)
    assert [verdict == "invariant" for verdict in result.verdicts[:, 0]] == [True, True, False]
    model, data = objective.model.requires_grad_(), objective.batches
    normalised = Objective(model, LogitNormalized(F.cross_entropy), data)
    scaled = usual_measures(normalised)["m-sharpness, adaptive"]
    assert audit(normalised, {"adaptive": scaled}).verdicts.tolist() == [["invariant"] * 3]


def test_a_model_without_a_rescaling_says_so():
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).double()
    objective = Objective(model, F.mse_loss, [(normal(N, 4), normal(N, 3, seed=1))])
    result = audit(objective, {"length": length})
    assert result.after.shape == result.ratios.shape == result.verdicts.shape == (1, 0)
    assert result.remarks == [
        "no rescaling of this model was found that leaves its function as it is, so that nothing could move"
    ]
    assert result.lines()[0].remark == result.remarks[0]
    assert result.to_frame()["before"].tolist() == [length(objective)]


def test_what_holds_on_the_examples_of_the_search_alone_is_left_out():
    class Cut(nn.Module):
        """Two branches, of which one is cut off at large inputs."""

        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)) for _ in range(2))

        def forward(self, x):
            return self.a[2](self.a[0](x).relu().clamp(max=6)) + self.b(x)

    x = normal(60, 4, seed=7)
    x[50:] *= 100
    objective = Objective(Cut().double(), F.cross_entropy, [(x, classes(60, 3))])
    assert len([one for one in find_rescalings(objective).found if one.kind == "between layers"]) == 2
    result = audit(objective, {"length": length, "loss": loss})
    column = result.rescalings.tolist().index("between layers")
    assert result.layers[column] == "b.0 → b.2"
    assert result.verdicts[1, column] == "invariant"
    assert any(reason.startswith("between layers, a.0 → a.2: the outputs change by") for reason in result.skipped)
    assert result.num_examples == 60


def test_as_many_are_taken_together_as_stay_within_the_tolerance(monkeypatch):
    objective = mlp()
    layers, units, _ = find_rescalings(objective).found
    off = {**layers.factors, "2.weight": layers.factors["2.weight"] * (1 + 7e-4)}  # as an eps would
    near = dataclasses.replace(layers, factors=off, tolerance=1e-3)
    found = Rescalings((near, near, units), ())
    monkeypatch.setattr("landscape.auditing.find_rescalings", lambda *given, **settings: found)
    result = audit(objective, {"loss": loss})
    assert result.rescalings.tolist() == KINDS[:2]
    assert 1e-4 < result.differences[0] < 1e-3
    assert len(result.skipped) == 1
    assert result.skipped[0].startswith("between layers, 0 → 2: the outputs change by 0.001")
    assert result.verdicts.tolist() == [["invariant", "invariant"]]  # up to what the outputs change
    assert audit(objective, {"2 %": lambda o: 1.0 + 0.02 * (length(o) != length(objective))}).verdicts.tolist() == [
        ["unknown", "moves"]  # a hundred times 7e-4 is more than that, and it is more than 1 %
    ]


def test_rescalings_that_are_given_are_told_apart_and_verified():
    objective = mlp()
    layers, units, logits = find_rescalings(objective).found
    result = audit(objective, {"length": length}, rescalings=[layers, units, layers])
    assert result.labels == ["between layers: 0 → 2", "between units", "between layers: 0 → 2"]
    other = classifier(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), 4)
    with pytest.raises(ValueError, match="it is no rescaling of this function"):
        audit(other, {"length": length}, rescalings=[layers])
    assert audit(other, {"length": length}, rescalings=[logits]).rescalings.tolist() == ["logits"]


def test_measures_are_taken_in_turn_and_progress_is_told():
    seen = []
    audit(mlp(), {"length": length, "loss": loss}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((1.0, 0.1), (1.0, 0.1), "invariant"),
        ((1.0, 0.1), (1.5, 0.1), "moves"),  # 3.5 standard errors of the difference
        ((1.0, 0.1), (1.4, 0.1), "unknown"),
        ((1.0, math.nan), (1.4, 0.1), "unknown"),
        ((1.0, math.nan), (1.0 + 1e-12, 0.1), "invariant"),
        ((0.0, 0.0), (0.0, 0.0), "invariant"),
        ((0.0, 0.0), (1.0, 0.0), "moves"),
        ((1.0, 0.0), (-1.0, 0.0), "moves"),
        ((1.0, 0.0), (1.001, 0.0), "moves"),
        ((math.inf, 0.0), (math.inf, 0.0), "unknown"),
    ],
)
def test_a_verdict_has_three_values(before, after, verdict):
    objective = mlp()
    layers, *_ = find_rescalings(objective).found

    def measure(o):
        return before if torch.equal(o.weights, objective.weights) else after

    result = audit(objective, {"measure": measure}, rescalings=[layers])
    assert result.verdicts.tolist() == [[verdict]]


def test_the_change_of_a_mean_over_shards_has_the_error_of_the_pairs():
    objective = mlp()
    layers, *_ = find_rescalings(objective).found
    ascent = GradientAscent(0.05)
    sharpness = lambda o: m_sharpness(o, ascent, microbatch_size=1)  # noqa: E731
    result = audit(objective, {"sharpness": sharpness}, rescalings=[layers])
    pairs = sharpness(layers.apply(objective)).per_shard - sharpness(objective).per_shard
    assert result.change_stderrs[0, 0] == pytest.approx(pairs.std(ddof=1) / math.sqrt(N), rel=1e-9)


def test_results_that_are_no_mean_of_their_parts_are_not_paired():
    objective = mlp()
    hessian = HessianOperator(objective)
    assert _Value.of(trace(hessian, 10), "trace").has_parts
    assert not _Value.of(frobenius_norm(hessian, 10), "norm").has_parts  # the root of a mean
    assert _Value.of(m_sharpness(objective, GradientAscent(0.1), microbatch_size=1), "sharpness").has_parts
    assert not _Value.of(m_sharpness(objective, GradientAscent(0.1), microbatch_size=N), "sharpness").has_parts


def test_it_is_saved_and_read(tmp_path):
    result = audit(mlp(), {"length": length, "loss": loss})
    assert Result.load(result.save(tmp_path / "audit.npz")) == result
    frame = result.to_frame()
    assert frame.shape == (6, 8)
    assert frame["rescaling"].tolist() == KINDS * 2
    assert frame["verdict"].tolist() == ["moves"] * 3 + ["invariant"] * 2 + ["moves"]
    summary = result.summary()
    assert [entry["preserves"] for entry in summary["rescalings"]] == ["outputs", "outputs", "predictions"]
    assert summary["measures"][1]["after"]["between layers"]["verdict"] == "invariant"
    assert isinstance(result, Audit)
    assert "invariant" in result.lines()[1].remark


def test_measures_that_are_none_are_refused():
    with pytest.raises(ValueError, match="measures must have at least one entry"):
        audit(mlp(), {})
    with pytest.raises(TypeError, match="the value of odd must be a number; got 'x'"):
        audit(mlp(), {"odd": lambda o: "x"})


def test_usual_measures_that_a_loss_has_not_are_left_out_with_the_reason(monkeypatch, tmp_path):
    x, y = normal(40, 4), classes(40, 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    objective = Objective(model, F.cross_entropy, [(x, y)])

    def refused(*_, **__):
        raise ValueError("no second derivative: of the loss")

    monkeypatch.setattr(auditing, "top_eigenvalues", refused)
    monkeypatch.setattr(auditing, "trace", refused)
    found = audit(objective)
    assert found.measures.tolist() == ["m-sharpness", "m-sharpness, adaptive", "Fisher-Rao norm"]
    assert found.after.shape == (3, len(found.rescalings))
    assert found.lines()[-1].quantity == "Hessian trace"
    assert math.isnan(found.lines()[-1].value)
    assert found.lines()[-1].remark == "not measured: no second derivative: of the loss"
    assert found.remarks[-1] == "not measured: Hessian trace: no second derivative: of the loss"
    assert found.summary()["unmeasured"][0].startswith("largest Hessian eigenvalue: ")
    assert Result.load(found.save(tmp_path / "audit.npz")) == found
    for measures in (None, {"mine": refused}):
        for name in ("m_sharpness", "fisher_rao_norm"):
            monkeypatch.setattr(auditing, name, refused)
        with pytest.raises(ValueError, match=r"^no second derivative: of the loss$"):
            audit(objective, measures)
