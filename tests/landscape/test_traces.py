from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import ZOO, dense_ggn, dense_hessian, linear_regression, problem, quadratic, symmetric
from spectra import SPECTRA, dense

from landscape import (
    GGNOperator,
    HessianOperator,
    Hutchinson,
    HutchPlusPlus,
    KrylovAware,
    Result,
    TraceEstimate,
    XTrace,
    trace,
)

ESTIMATORS = (Hutchinson(), HutchPlusPlus(), XTrace(), KrylovAware())
TRAINED = torch.cat([20.0 / torch.arange(2, 102) ** 1.5, -torch.linspace(0, 0.05, 60)]).double()  # as of a network
INDEFINITE = torch.cat([torch.linspace(-2, 2, 60), torch.tensor([5.0, -5.0])]).double()  # its trace is zero


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("num_probes", [4, 9, 11])
def test_the_trace_of_a_multiple_of_the_identity_is_exact_for_any_probes(estimator, num_probes):
    result = trace(dense(3 * torch.eye(12).double()), num_probes, estimator=estimator)
    spread = 1e-12 if isinstance(estimator, XTrace | Hutchinson) else 10.0  # signs keep no length when projected
    assert result.estimate == pytest.approx(36.0, abs=spread)


@pytest.mark.parametrize("num_probes", [2, 9, 11])
def test_signs_find_the_trace_of_a_diagonal_matrix(num_probes):
    result = trace(dense(torch.linspace(-1, 3, 12, dtype=torch.float64).diag()), num_probes, estimator=Hutchinson())
    assert result.estimate == pytest.approx(12.0, rel=1e-12)
    assert result.stderr == pytest.approx(0.0, abs=1e-12)
    assert result.samples.shape == (num_probes,)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("num_probes", [12, 40])
@pytest.mark.parametrize("name", [*SPECTRA])
def test_as_many_products_as_there_are_weights_give_the_exact_trace(estimator, num_probes, name):
    values = torch.as_tensor(SPECTRA[name])[-12:]
    result = trace(dense(symmetric(values)), num_probes, estimator=estimator)
    assert result.estimate == pytest.approx(float(values.sum()), abs=1e-12)
    assert (result.stopped, result.num_products, result.estimator) == ("exact", 12, "Coordinates")
    assert result.stderr < 1e-13
    low, high = result.interval()
    assert high - low < 1e-12


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("spectrum", [TRAINED, INDEFINITE], ids=["trained", "zero trace"])
def test_it_is_unbiased_and_its_interval_covers_the_truth(estimator, spectrum):
    operator = dense(symmetric(spectrum))
    truth = float(spectrum.sum())
    results = [trace(operator, 30, estimator=estimator, seed=seed) for seed in range(200)]
    errors = np.array([result.estimate - truth for result in results])
    intervals = np.array([result.interval(0.95) for result in results])
    assert abs(errors.mean()) < 3.5 * errors.std(ddof=1) / np.sqrt(200)
    assert ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean() >= 0.9
    ratio = np.mean([result.stderr for result in results]) / errors.std(ddof=1)
    assert ratio == pytest.approx(1.0, rel=0.2) if not isinstance(estimator, XTrace) else 1.0 < ratio < 3


def test_deflation_pays_where_eigenvalues_decay():
    operator, truth = dense(symmetric(TRAINED)), float(TRAINED.sum())
    rms = {
        repr(estimator): np.sqrt(
            np.mean([(trace(operator, 30, estimator=estimator, seed=seed).estimate - truth) ** 2 for seed in range(60)])
        )
        for estimator in ESTIMATORS
    }
    assert rms["KrylovAware()"] < rms["XTrace()"] < rms["HutchPlusPlus()"] < rms["Hutchinson()"] / 2
    assert rms["KrylovAware()"] < rms["Hutchinson()"] / 5


@pytest.mark.parametrize("estimator", ESTIMATORS[1:], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_a_matrix_of_low_rank_is_known_to_rounding(estimator, dtype, rank):
    values = torch.zeros(50).double()
    values[:rank] = torch.linspace(3, 1, rank)
    result = trace(dense(symmetric(values).to(dtype)), 24, estimator=estimator)
    rounding = 100 * torch.finfo(dtype).eps
    assert result.estimate == pytest.approx(float(values.sum()), abs=rounding)
    assert result.stderr < 10 * rounding


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("num_probes", [4, 5, 7, 30, 31])
def test_the_budget_is_kept_and_counted(estimator, num_probes):
    columns = []
    operator = dense(symmetric(TRAINED))
    operator.apply = lambda V, product=operator.apply: columns.append(V.shape[1]) or product(V)
    result = trace(operator, num_probes, estimator=estimator)
    assert result.num_products == sum(columns)
    assert result.num_products == num_probes - (num_probes % 2 if isinstance(estimator, XTrace) else 0)
    assert (result.stopped, result.estimator) == ("budget", type(estimator).__name__)


def test_the_trace_of_linear_regression_is_the_sum_of_squares():
    objective, hessian = linear_regression()
    result = trace(HessianOperator(objective), 8)
    low, high = result.interval(0.999)
    assert low < hessian.trace().item() < high
    assert trace(HessianOperator(objective), 60).estimate == pytest.approx(hessian.trace().item(), rel=1e-12)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_networks_and_their_blocks_agree_with_dense_autograd(name, estimator):
    given = problem(name)
    for operator, exact in ((HessianOperator, dense_hessian), (GGNOperator, dense_ggn)):
        wanted = exact(given)
        space = given.objective().space
        num_probes = min(20, space.dim - 1)
        result = trace(operator(given.objective()), num_probes, estimator=estimator)
        low, high = result.interval(0.9995)
        assert low <= wanted.trace().item() <= high
        blocks = [part.sum() for part in wanted.diagonal().split(space.sizes)]
        assert result.blocks.tolist() == list(space.names)
        sure = trace(operator(given.objective()), space.dim)
        np.testing.assert_allclose(sure.block_estimates, blocks, atol=1e-10)
        assert (np.abs(result.block_estimates - blocks) <= 6 * result.block_stderrs + 1e-10).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_blocks_add_up_to_the_trace_and_the_frame_names_them(estimator):
    result = trace(HessianOperator(problem("tanh_mlp").objective()), 12, estimator=estimator)
    assert result.block_estimates.sum() == pytest.approx(result.estimate, rel=1e-13)
    assert result.per_block.columns.tolist() == ["block", "trace", "stderr"]
    assert result.per_block["block"].tolist() == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert (result.per_block["stderr"] > 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_intervals_of_the_blocks_cover_too(estimator):
    given = problem("tanh_mlp")
    operator = dense(dense_hessian(given))
    operator.objective = given.objective()
    exact = np.array([part.sum() for part in dense_hessian(given).diagonal().split(operator.objective.space.sizes)])
    found = [trace(operator, 16, estimator=estimator, seed=seed) for seed in range(200)]
    errors = np.array([result.block_estimates - exact for result in found])
    assert (np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(200)).all()
    covered = np.abs(errors) <= 2.36 * np.array([result.block_stderrs for result in found])  # t, 7 degrees of freedom
    assert (covered.mean(axis=0) >= 0.85).all()


def test_the_probes_done_are_reported():
    reports = []
    operator = dense(symmetric(TRAINED))
    trace(operator, 25, estimator=Hutchinson(), progress=lambda done, total: reports.append((done, total)))
    assert reports == [(10, 25), (20, 25), (25, 25)]


def test_the_manifest_says_how_it_was_measured():
    result = trace(GGNOperator(quadratic(torch.eye(12).double())), np.int64(4), seed=np.int32(7), rtol=0.5)
    assert result.manifest["operator"] == {"name": "GGNOperator"}
    expected = {"name": "trace", "estimator": "KrylovAware", "num_probes": 4, "seed": 7, "rtol": 0.5}
    assert result.manifest["measurement"] == expected


def test_a_seed_decides_the_answer():
    operator = dense(symmetric(TRAINED))
    assert trace(operator, 12, seed=3) == trace(operator, 12, seed=3) != trace(operator, 12, seed=4)


@pytest.mark.parametrize(
    ("estimator", "least"), [(Hutchinson(), 2), (HutchPlusPlus(), 2), (XTrace(), 4), (KrylovAware(), 2)]
)
def test_probes_that_leave_no_standard_error_are_refused(estimator, least):
    operator = dense(symmetric(TRAINED))
    for num_probes in (-1, 0, least - 1):
        with pytest.raises(ValueError, match=f"num_probes must be at least {least}, to give .* got {num_probes}"):
            trace(operator, num_probes, estimator=estimator)
    assert np.isfinite(trace(operator, least, estimator=estimator).stderr)


def test_an_estimator_must_be_one():
    with pytest.raises(TypeError, match=r"estimator must be an estimator such as KrylovAware\(\).*got 'hutch'"):
        trace(dense(symmetric(TRAINED)), estimator="hutch")


def test_products_that_are_not_finite_are_refused():
    operator = dense(symmetric(TRAINED))
    operator.apply = lambda V: V * torch.inf
    with pytest.raises(ValueError, match="a product with the operator is not finite"):
        trace(operator, 10)


def test_the_interval_is_that_of_students_t():
    result = TraceEstimate(estimate=1.0, stderr=2.0, samples=np.zeros(6))
    assert result.interval(0.95) == pytest.approx((1 - 2 * 2.570582, 1 + 2 * 2.570582), rel=1e-6)
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, such as 0\.95; got 95"):
        result.interval(95)


def test_files_of_older_versions_are_read(tmp_path):
    old = TraceEstimate(estimate=1.0, stderr=0.5, samples=np.arange(9.0)).save(tmp_path / "new.npz")
    with np.load(old) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("block")}
    header = arrays["header"].tobytes().decode()
    for part in ('"estimator": "Hutchinson", ', '"num_products": null, ', ', "stopped": "budget"'):
        assert part in header
        header = header.replace(part, "")
    np.savez(tmp_path / "old.npz", **arrays | {"header": np.frombuffer(header.encode(), dtype=np.uint8)})
    loaded = Result.load(tmp_path / "old.npz")
    assert loaded.summary()["num_products"] == 9
    assert loaded.lines()[0].remark == "standard error; Hutchinson, 9 products"
    assert len(loaded.per_block) == 0
