from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import analyses.comparison
from analyses.comparison import compare, group_names, require_microbatches_alone
from analyses.measures import ask
from analyses.results import MEASURES
from analyses.subject import Subject
from msam import Run
from msam.config import TrainConfig


def config(**entries) -> TrainConfig:
    return TrainConfig(**entries)


def test_there_is_a_row_for_each_run_in_order(table, sweep):
    assert table.names.tolist() == [f"run-{i:02d}" for i in range(1, 7)]
    assert table.seeds.tolist() == [c.seed for c in sweep.configs] == [0, 1, 0, 1, 0, 1]
    assert table.groups.tolist() == [g for g in ("SGD", "SAM", "mSAM, 2 micro-batches") for _ in range(2)]
    assert table.num_microbatches.tolist() == [0, 0, 1, 1, 2, 2]
    assert table.measures.tolist() == list(MEASURES)
    assert table.values.shape == table.errors.shape == (6, len(MEASURES))


def test_each_value_is_the_answer_of_its_run_with_the_answers_own_uncertainty(table, subjects):
    for i, subject in enumerate(subjects):
        eigenpairs, trace, sharpness = (ask(subject, q).result for q in ("eigenvalues", "trace", "sharpness"))
        expected = {
            "test_accuracy": (subject.test.accuracy, subject.test.accuracy_stderr),
            "train_loss": (subject.train.loss, 0.0),
            "test_loss": (subject.test.loss, subject.test.loss_stderr),
            "largest_eigenvalue": (eigenpairs.eigenvalues[0], eigenpairs.residuals[0]),
            "trace": (trace.estimate, trace.stderr),
            "sharpness": (sharpness.value, sharpness.stderr),
        }
        for measure, (value, error) in expected.items():
            assert (table.column(measure)[i], table.error(measure)[i]) == (value, error), measure
        assert table.converged[i] == eigenpairs.converged[0]


def test_the_gap_is_training_minus_test_accuracy_and_has_the_error_of_the_test_accuracy(table, subjects):
    for i, subject in enumerate(subjects):
        p, q = subject.train.accuracy, subject.test.accuracy
        assert table.column("gap")[i] == p - q
        assert table.error("gap")[i] == pytest.approx(math.sqrt(q * (1 - q) / 797), rel=1e-12)


def test_the_covariance_of_the_accuracies_is_that_of_what_is_right_example_by_example(table, subjects):
    correct = np.array([subject.test.right for subject in subjects])
    assert correct.shape == (6, 797)
    np.testing.assert_allclose(table.accuracy_covariance, np.cov(correct, ddof=0) / 797, rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(table.accuracy_covariance)), table.error("test_accuracy"), rtol=1e-12)


def test_the_error_of_a_difference_is_that_of_the_differences_of_single_examples_averaged_over_seeds(table, subjects):
    correct = np.array([subject.test.right for subject in subjects], dtype=float)
    first, second = correct[table.of_group("SAM")].mean(axis=0), correct[table.of_group("SGD")].mean(axis=0)
    difference, error = table.accuracy_difference("SAM", "SGD")
    assert difference == pytest.approx((first - second).mean(), rel=1e-12)
    assert error == pytest.approx((first - second).std() / np.sqrt(797), rel=1e-12)


def test_a_single_run_has_a_covariance_of_one_by_one(subjects):
    assert compare(subjects[:1]).accuracy_covariance == pytest.approx(subjects[0].test.accuracy_stderr ** 2)


def test_a_checkpoint_before_the_last_is_named_by_its_epoch_also_among_runs_of_other_lengths(
    base, train_run, protocol, tmp_path
):
    longer = dataclasses.replace(base, epochs=3, checkpoint_every=1)
    run = train_run(tmp_path / "longer", longer)
    early = Run.open(run.checkpoints()[1])
    last = train_run(tmp_path / "last", base)
    assert compare([Subject(r, protocol) for r in (early, last)]).groups.tolist() == [
        "SAM, epochs 3, epoch-0001",
        "SAM, epochs 2, epoch-0002",
    ]
    assert compare([Subject(r, protocol) for r in (run, last)]).groups.tolist() == ["SAM, epochs 3", "SAM, epochs 2"]


def test_the_table_states_the_protocol_it_was_measured_under(table, protocol):
    assert table.manifest["objective"]["num_examples"] == 60
    assert table.manifest["eigenvalues"]["k"] == protocol.eigenvalues
    assert table.manifest["trace"]["num_probes"] == protocol.trace_probes
    assert table.manifest["sharpness"]["rho"] == protocol.rho
    assert "torch" in table.manifest["machine"]
    assert "subject" not in table.manifest


def test_comparing_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_examples": 61}, "data.training set: '60 examples, .*' or '61 examples, .*'"),
        ({"label_noise": 0.5}, "data.training set: '60 examples, .*' or '60 examples, .*'"),
        ({"data_seed": 1}, "data.training set"),
        ({"hidden": 9}, "objective.architecture: .* objective.dim: 610 or 685"),
    ],
)
def test_runs_on_other_data_or_of_another_size_are_refused_and_told_what_differs(
    change, named, subjects, base, train_run, protocol, tmp_path
):
    other = dataclasses.replace(base, settings=base.settings | change)
    strange = Subject(train_run(tmp_path / "strange", other), protocol)
    with pytest.raises(ValueError, match=f"run-01 and strange cannot be put side by side; they differ in {named}"):
        compare([*subjects, strange])


def test_other_training_data_are_refused_also_where_the_landscape_is_that_of_the_test_data(
    sweep, base, train_run, protocol, tmp_path
):
    on_test = dataclasses.replace(protocol, split="test")
    noisy = dataclasses.replace(base, settings=base.settings | {"label_noise": 0.5})
    subjects = [Subject(run, on_test) for run in (sweep.finished()[0], train_run(tmp_path / "noisy", noisy))]
    with pytest.raises(ValueError, match=r"differ in data\.training set"):
        compare(subjects)


def test_other_data_are_refused_before_anything_is_measured(subjects, base, train_run, protocol, tmp_path, monkeypatch):
    noisy = dataclasses.replace(base, settings=base.settings | {"label_noise": 0.5})
    strange = Subject(train_run(tmp_path / "noisy", noisy), protocol)
    monkeypatch.setattr(analyses.comparison, "_row", lambda subject: pytest.fail("measured"))
    with pytest.raises(ValueError, match="cannot be put side by side"):
        compare([subjects[0], strange])


def test_before_one_run_is_measured_it_is_known_whether_all_can_keep_their_answers(
    sweep, protocol, tmp_path, monkeypatch
):
    runs = [Path(shutil.copytree(sweep.run_path(i), tmp_path / str(i))) for i in (0, 2)]
    for run in runs:
        shutil.rmtree(run / "results", ignore_errors=True)
    (runs[1] / "results").write_text("in the way of the folder")
    monkeypatch.setattr(Subject, "remembered", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(NotADirectoryError, match="results"):
        compare([Subject(Run.open(run), protocol) for run in runs])


@pytest.mark.parametrize("change", [{"rho": 0.1}, {"lr": 0.2}, {"perturbation": "asam"}])
def test_configs_that_differ_in_other_things_than_micro_batches_are_refused(change, base):
    several = [dataclasses.replace(base, num_microbatches=m, seed=seed) for m in (1, 2) for seed in (0, 1)]
    plain = dataclasses.replace(base, perturbation="none")
    changed = dataclasses.replace(base, num_microbatches=4, **change)
    require_microbatches_alone([plain, *several], of=Path("sweep"))
    with pytest.raises(
        ValueError, match=r"runs of sweep do not differ in the number of micro-batches alone; there are"
    ):
        require_microbatches_alone([plain, *several, changed], of=Path("sweep"))


def test_measurements_of_different_protocols_are_refused(sweep, protocol):
    first, second, *_ = sweep.finished()
    other = dataclasses.replace(protocol, trace_probes=7)
    with pytest.raises(ValueError, match=r"differ in measurement\.num_probes: 6 or 7"):
        compare([Subject(first, protocol), Subject(second, other)])


def test_runs_of_one_name_are_told_apart_by_their_folders_and_compared_like_others(
    subjects, base, train_run, protocol, tmp_path
):
    twin = Subject(train_run(tmp_path / "run-01", dataclasses.replace(base, seed=7)), protocol)
    table = compare([subjects[0], twin])
    assert table.names.tolist() == [str(subjects[0].run.path), str(tmp_path / "run-01")]
    larger = dataclasses.replace(base, settings=base.settings | {"hidden": 9})
    strange = Subject(train_run(tmp_path / "other" / "run-01", larger), protocol)
    with pytest.raises(ValueError, match=r"objective\.dim"):
        compare([subjects[0], strange])


def test_one_run_is_a_table_too(subjects):
    assert compare(subjects[:1]).groups.tolist() == ["SGD"]


def test_the_seed_is_not_in_a_name():
    assert group_names([config(seed=seed) for seed in range(3)]) == ["SAM"] * 3


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        ([config(lr=0.1), config(lr=0.2)], ["SAM, lr 0.1", "SAM, lr 0.2"]),
        ([config(rho=0.1), config(rho=0.2)], ["SAM, rho 0.1", "SAM, rho 0.2"]),
        ([config(), config(perturbation="asam")], ["SAM", "ASAM"]),
        ([config(), config(perturbation="none"), config(num_microbatches=4)], ["SAM", "SGD", "mSAM, 4 micro-batches"]),
        (
            [config(perturbation="asam", num_microbatches=n) for n in (2, 4)],
            ["mASAM, 2 micro-batches", "mASAM, 4 micro-batches"],
        ),
        ([config(optimizer=o) for o in ("sgd", "adamw")], ["SAM", "SAM on AdamW"]),
        ([config(optimizer=o, perturbation="none") for o in ("sgd", "adamw")], ["SGD", "AdamW"]),
        ([config(settings={"label_noise": 0.2}), config()], ["SAM, label_noise 0.2", "SAM, label_noise 0.0"]),
        ([config(settings={"hidden": "8"}), config(settings={"hidden": 8})], ["SAM", "SAM"]),
        ([config(rho=0.0, num_microbatches=4), config(perturbation="none")], ["SGD, 4 micro-batches", "SGD"]),
        ([config(checkpoint_every=1), config()], ["SAM", "SAM"]),
    ],
)
def test_a_name_says_what_differs(configs, names):
    assert group_names(configs) == names


def test_the_radius_of_an_unperturbed_run_is_not_named():
    names = group_names([config(perturbation="none", rho=0.0), config(rho=0.1), config(rho=0.2)])
    assert names == ["SGD", "SAM, rho 0.1", "SAM, rho 0.2"]


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.3},
        {"rho": 0.3},
        {"epochs": 3},
        {"batch_size": 30},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"schedule": "constant"},
        {"optimizer": "adamw"},
        {"num_microbatches": 3},
        {"perturbation": "asam"},
        {"perturbation": "none"},
        {"settings": {"data_seed": 1}},
    ],
)
def test_configs_that_differ_in_anything_but_the_seed_have_different_names(change):
    first, second = group_names([config(), dataclasses.replace(config(), **change)])
    assert first != second


def test_a_table_of_the_test_split_says_so(sweep, protocol):
    table = compare([Subject(sweep.finished()[0], dataclasses.replace(protocol, split="test"))])
    assert table.manifest["objective"]["split"] == "test"
    assert np.isfinite(table.values).all()
