from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from analyses import curvature, measures, surroundings
from analyses.measures import ask
from analyses.subject import Subject
from landscape import (
    GradientAscent,
    HessianOperator,
    Objective,
    accuracy,
    average_case_sharpness,
    filter_normalized,
    line_slice,
    m_sharpness,
    plane_slice,
    spectral_density,
    top_eigenvalues,
    trace,
    worst_case_sharpness,
)
from msam import Run
from msam.checkpoints import save_weights

QUESTIONS = tuple(measures.QUESTIONS)
ASKING = {
    curvature: ("top_eigenvalues", "trace_of", "spectral_density"),
    surroundings: (
        "m_sharpness",
        "worst_case_sharpness",
        "average_case_sharpness",
        "line_slice",
        "plane_slice",
    ),
}


def arrays_of(result) -> dict[str, np.ndarray]:
    """Every field but the manifest, as an array."""
    names = [entry.name for entry in dataclasses.fields(result) if entry.name != "manifest"]
    return {name: np.asarray(getattr(result, name)) for name in names}


def assert_same(first, second):
    assert type(first) is type(second)
    for name, value in arrays_of(first).items():
        np.testing.assert_array_equal(value, arrays_of(second)[name], err_msg=name)


@pytest.fixture
def run(sweep, tmp_path) -> Run:
    """A copy of the sweep's third run, SAM, without the answers others have had."""
    copied = tmp_path / "run"
    shutil.copytree(sweep.run_path(2), copied, ignore=shutil.ignore_patterns("results"))
    return Run.open(copied)


@pytest.fixture
def nothing_is_computed(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this was asked before and should be read back")

    return lambda: [monkeypatch.setattr(home, name, refuse) for home, names in ASKING.items() for name in names]


def objective_of(run, split) -> Objective:
    """The objective of some of the run's data, written out: one batch, evaluation mode."""
    task = run.config.load_task()
    examples = getattr(task, split)
    data = [(examples.inputs, examples.targets)]
    return Objective(run.load_model(task).eval(), functional.cross_entropy, data, split=split)


@pytest.fixture
def by_hand(run) -> Objective:
    return objective_of(run, "train")


def directions(objective):
    first = filter_normalized(objective, seed=0)
    return first, filter_normalized(objective, seed=1, orthogonal_to=first)


DIRECT = {
    "eigenvalues": lambda o: top_eigenvalues(HessianOperator(o), k=2, tol=1e-3, seed=0),
    "trace": lambda o: trace(HessianOperator(o), num_probes=6, seed=0),
    "density": lambda o: spectral_density(
        HessianOperator(o), num_steps=8, num_probes=2, seed=0, outliers=DIRECT["eigenvalues"](o)
    ),
    "sharpness": lambda o: m_sharpness(o, GradientAscent(0.05), microbatch_size=16),
    "worst_case": lambda o: worst_case_sharpness(o, GradientAscent(0.05), microbatch_size=16, seed=0),
    "average_case": lambda o: average_case_sharpness(o, GradientAscent(0.01), num_draws=3, seed=0),
    "line": lambda o, **also: line_slice(o, directions(o)[0], coordinates=np.linspace(-1, 1, 5), **also),
    "plane": lambda o, **also: plane_slice(o, directions(o), x=np.linspace(-1, 1, 4), y=np.linspace(-1, 1, 4), **also),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_that_of_a_direct_call_on_an_objective_made_by_hand(question, run, by_hand, protocol):
    answer = ask(Subject(run, protocol), question).result
    also = {"held_out": objective_of(run, "test"), "score": accuracy} if question in ("line", "plane") else {}
    direct = DIRECT[question](by_hand, **also)
    assert_same(answer, direct)
    assert answer.manifest == direct.manifest


def test_shards_larger_than_the_data_are_all_the_data(run, by_hand, protocol):
    answer = surroundings.sharpness(Subject(run, dataclasses.replace(protocol, microbatch_size=1000))).result
    assert_same(answer, m_sharpness(by_hand, GradientAscent(0.05), microbatch_size=60))


def test_the_split_decides_whose_landscape_it_is(run, protocol):
    subject = Subject(run, dataclasses.replace(protocol, split="test"))
    assert surroundings.sharpness(subject).result.manifest["objective"]["split"] == "test"
    assert surroundings.sharpness(subject).result.manifest["objective"]["num_examples"] == 797
    assert subject.objective.loss(subject.objective.weights).item() == pytest.approx(subject.test.loss, rel=1e-6)


def test_accuracies_are_counted_and_their_standard_error_is_binomial(run, protocol):
    subject, task = Subject(run, protocol), run.config.load_task()
    model = run.load_model(task)
    for found, examples in ((subject.train, task.train), (subject.test, task.test)):
        with torch.no_grad():
            right = (model(examples.inputs).argmax(dim=1) == examples.targets).double()
        p, n = right.mean().item(), len(right)
        assert found.accuracy == pytest.approx(p, abs=1e-15)
        assert found.accuracy_stderr == pytest.approx(math.sqrt(p * (1 - p) / n), rel=1e-14)


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_has_been_asked_is_read_back_and_not_computed_again(question, run, protocol, nothing_is_computed):
    first = ask(Subject(run, protocol), question)
    before = first.path.read_bytes()
    nothing_is_computed()
    second = ask(Subject(run, protocol), question)
    assert second.path == first.path
    assert_same(first.result, second.result)
    assert first.path.read_bytes() == before


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_deleted_answer_is_computed_again(question, run, protocol):
    first = ask(Subject(run, protocol), question)
    first.path.unlink()
    second = ask(Subject(run, protocol), question)
    assert second.path.is_file()
    assert_same(first.result, second.result)


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_answer_is_computed_again_and_replaced(damage, run, protocol, nothing_is_computed):
    first = curvature.trace(Subject(run, protocol))
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    second = curvature.trace(Subject(run, protocol))
    assert_same(first.result, second.result)
    nothing_is_computed()
    assert_same(first.result, curvature.trace(Subject(run, protocol)).result)


def test_an_answer_of_another_kind_in_its_place_is_replaced(run, protocol):
    subject = Subject(run, protocol)
    shutil.copy(surroundings.sharpness(subject).path, curvature.trace(subject).path)
    assert_same(curvature.trace(subject).result, DIRECT["trace"](subject.objective))


OTHER = [
    ("eigenvalues", {"eigenvalues": 3}),
    ("eigenvalues", {"tol": 1e-2}),
    ("eigenvalues", {"seed": 1}),
    ("trace", {"trace_probes": 7}),
    ("trace", {"seed": 1}),
    ("trace", {"estimator": "exact-gauss-newton", "trace_probes": 20}),
    ("density", {"density_steps": 9}),
    ("density", {"density_probes": 3}),
    ("density", {"seed": 1}),
    ("density", {"eigenvalues": 3}),
    ("density", {"tol": 1e-2}),
    ("sharpness", {"rho": 0.1}),
    ("sharpness", {"microbatch_size": 17}),
    ("line", {"reach": 0.5}),
    ("line", {"line_points": 6}),
    ("line", {"seed": 1}),
    ("plane", {"reach": 0.5}),
    ("plane", {"plane_points": 5}),
    ("plane", {"seed": 1}),
    *((question, {"split": "test"}) for question in ("trace", "sharpness", "line")),
]


@pytest.mark.parametrize(("question", "change"), OTHER)
def test_another_question_has_another_file(question, change, run, protocol):
    first = ask(Subject(run, protocol), question)
    second = ask(Subject(run, dataclasses.replace(protocol, **change)), question)
    assert first.path != second.path
    assert first.path.is_file()
    assert second.path.is_file()


@pytest.mark.parametrize("question", QUESTIONS)
def test_other_weights_in_the_same_checkpoint_have_another_file(question, run, protocol):
    first = ask(Subject(run, protocol), question)
    model = run.load_model(run.config.load_task())
    with torch.no_grad():
        next(model.parameters())[0, 20] += 0.25
    save_weights(model, run.checkpoint)
    second = ask(Subject(run, protocol), question)
    assert first.path != second.path
    assert first.result.manifest["subject"]["weights"] != second.result.manifest["subject"]["weights"]


def test_a_question_that_ignores_a_setting_is_not_asked_again_for_it(run, protocol, nothing_is_computed):
    first = curvature.trace(Subject(run, protocol))
    nothing_is_computed()
    assert curvature.trace(Subject(run, dataclasses.replace(protocol, reach=2.0, rho=0.5))).path == first.path


def test_progress_is_reported_by_run_and_question(run, protocol):
    stages = []
    curvature.trace(Subject(run, protocol, report=lambda stage: stages.append(stage) or (lambda done, total: None)))
    assert stages == ["run: trace"]


def test_measuring_changes_neither_the_random_state_nor_the_checkpoint(run, protocol):
    state, weights = torch.get_rng_state(), run.checkpoint.read_bytes()
    subject = Subject(run, protocol)
    for question in QUESTIONS:
        ask(subject, question)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.checkpoint.read_bytes() == weights


@pytest.mark.parametrize("question", QUESTIONS)
def test_where_no_answer_can_be_kept_nothing_is_measured(question, run, protocol, nothing_is_computed):
    (run.path / "results").write_text("in the way of the folder")
    nothing_is_computed()
    with pytest.raises(NotADirectoryError, match="results"):
        ask(Subject(run, protocol), question)
    assert (run.path / "results").is_file()


def test_a_run_that_is_removed_while_it_is_measured_does_not_come_back_by_half(run, protocol):
    def removed(stage):
        shutil.rmtree(run.path)
        return lambda done, total: None

    subject = Subject(run, protocol, report=removed)
    with pytest.raises(FileNotFoundError, match=r"run was removed, or its config\.json, while it was being measured"):
        curvature.trace(subject)
    assert not run.path.exists()
