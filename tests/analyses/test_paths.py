"""What lies between two checkpoints of a sweep."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from torch import nn

from analyses.paths import PathPlan, paths_between, require_pair, with_pairs
from analyses.subject import Subject
from landscape import Objective
from landscape.batch_norm import recomputed
from msam import Run

PLAN = PathPlan(align=True, bezier=True, points=3)


@pytest.fixture(scope="module")
def pair(sweep, protocol, tmp_path_factory):
    """Copies of two runs with different seeds, so that others find no results in them."""
    runs = [run for run in sweep.finished() if run.config.perturbation == "none"][:2]
    folder = tmp_path_factory.mktemp("pair")
    for run in runs:
        shutil.copytree(run.path, folder / run.path.name)
    return [Subject(Run.open(folder / run.path.name), protocol) for run in runs]


@pytest.fixture(scope="module")
def answers(pair):
    return paths_between(*pair, PLAN)


def test_there_is_an_answer_for_everything_that_was_asked(answers):
    assert list(answers) == ["straight", "aligned", "bezier"]
    curves = [answer.result.curve for answer in answers.values()]
    assert curves == ["straight line", "straight line after alignment", "Bezier curve"]
    assert all(answer.path.is_file() for answer in answers.values())
    assert len({answer.path for answer in answers.values()}) == 3


def test_the_ends_are_the_checkpoints_on_training_and_test_data(pair, answers):
    for name, answer in answers.items():
        result = answer.result
        for place, subject in ((0, pair[0]), (-1, pair[1])):
            assert result.losses[place] == pytest.approx(subject.train.loss, rel=1e-5), name
            assert result.scores[place] == pytest.approx(subject.train.accuracy, rel=1e-6)
            assert result.held_out_losses[place] == pytest.approx(subject.test.loss, rel=1e-5)
            assert result.held_out_scores[place] == pytest.approx(subject.test.accuracy, rel=1e-6)
            assert result.held_out_stderrs[place] == pytest.approx(subject.test.loss_stderr, rel=1e-4)
        assert result.score == "accuracy"


def test_alignment_shortens_the_way_and_says_how_it_was_found(answers):
    aligned = answers["aligned"].result
    how = aligned.manifest["subject"]["alignment"]
    assert how["distance_before"] == pytest.approx(answers["straight"].result.distance, rel=1e-5)
    assert how["distance_after"] == pytest.approx(aligned.distance, rel=1e-5)
    assert aligned.distance < answers["straight"].result.distance
    assert how["discrepancy"] < 1e-9


def test_the_three_can_be_put_in_one_figure(answers):
    from landscape.manifest import require_comparable

    require_comparable({name: answer.result.manifest for name, answer in answers.items()})


def test_what_was_asked_before_is_read_back_and_what_differs_is_measured(pair, answers, monkeypatch):
    asked = []
    monkeypatch.setattr("analyses.paths.interpolate", lambda *a, **k: asked.append(k) or answers["straight"].result)
    again = paths_between(*pair, PLAN)
    assert {name: answer.path for name, answer in again.items()} == {name: a.path for name, a in answers.items()}
    assert all(again[name].result == answers[name].result for name in answers)
    assert not asked
    for plan in (PathPlan(points=4), PathPlan(points=3, frozen=True)):
        paths_between(*pair, plan)
    paths_between(pair[1], pair[0], PathPlan(points=3))
    assert len(asked) == 3


def test_the_same_checkpoint_twice_is_refused_by_name_and_by_weights(pair, tmp_path):
    with pytest.raises(ValueError, match="is named twice; a path leads from one checkpoint to another"):
        require_pair(pair[0].run, pair[0].run)
    twin = tmp_path / "twin"
    shutil.copytree(pair[0].run.path, twin)
    run = Run.open(twin)
    require_pair(pair[0].run, run)
    with pytest.raises(ValueError, match="hold the same weights; there is nothing between them"):
        paths_between(pair[0], Subject(run, pair[0].protocol), PathPlan(points=3))


def test_runs_of_other_settings_are_refused_with_all_that_differ(pair):
    first, second = (subject.run for subject in pair)
    changed = dataclasses.replace(second.config, settings={**second.config.settings, "hidden": 9, "label_noise": 0.5})
    with pytest.raises(ValueError, match=r"they differ in hidden \(8 and 9\), label_noise \(0\.0 and 0\.5\)"):
        require_pair(first, Run(second.path, changed))
    changed = dataclasses.replace(second.config, settings={**second.config.settings, "augment": "crop"})
    require_pair(first, Run(second.path, changed))  # which no measurement sees


def test_a_task_without_classes_has_paths_without_a_score(pair, monkeypatch):
    monkeypatch.setitem(vars(pair[0]), "score", None)
    result = paths_between(*pair, PathPlan(points=3))["straight"].result
    assert result.scores is None
    assert result.score_barrier is None


def test_statistics_of_training_data_with_one_example_left_over_are_recomputed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double().eval()
    x, y = torch.randn(5, 3).double(), torch.tensor([0, 1, 0, 1, 1])

    def over(sizes):
        data = list(zip(x.split(sizes), y.split(sizes), strict=True))
        return Objective(model, nn.functional.cross_entropy, data)

    given = over([2, 2, 1])
    found, expected = (recomputed(o, o.weights) for o in (with_pairs(given), over([2, 3])))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert with_pairs(over([2, 3])).num_examples == with_pairs(given).num_examples == 5
    one = over([5]).part([(x[:1], y[:1])])
    assert with_pairs(one) is one
