"""A run is a directory: made once, opened by any of its names, and never written over by accident."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from landscape.manifest import hash_of_settings
from msam import Run, TrainConfig
from msam.checkpoints import save_weights
from msam.config import LATER
from msam.sweep import Sweep, grid

CONFIG = TrainConfig(epochs=2, settings={"hidden": 3})


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "a", CONFIG)


def checkpoint(run, epoch, model):
    save_weights(model, run.weights_path(epoch))
    return run.weights_path(epoch)


def test_a_new_run_holds_its_config_and_is_opened_by_its_directory(run):
    written = json.loads((run.path / "config.json").read_text())
    assert written["format"] == 1
    assert "torch" in written["versions"]
    opened = Run.open(str(run.path))
    assert opened.config == CONFIG
    assert (opened.name, opened.metrics(), opened.checkpoints(), opened.is_complete) == ("a", [], [], False)


def test_missing_and_empty_folders_may_become_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", CONFIG).path.is_dir()
    assert Run.create(tmp_path / "several" / "levels" / "down", CONFIG).path.is_dir()


@pytest.mark.parametrize("left", ["metrics.csv", "checkpoints/epoch-0000.safetensors", "results/a.npz"])
def test_an_existing_run_is_refused_and_stays(left, run):
    (run.path / left).parent.mkdir(exist_ok=True)
    (run.path / left).write_text("old")
    with pytest.raises(FileExistsError, match=r"holds a run already; continue it with --resume, or --overwrite it"):
        Run.create(run.path, CONFIG)
    assert (run.path / left).read_text() == "old"


def test_an_existing_run_is_replaced_when_told_to(run):
    (run.path / "results").mkdir()
    new = Run.create(run.path, TrainConfig(epochs=5), overwrite=True)
    assert Run.open(new.path).config.epochs == 5
    assert not (run.path / "results").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "content",
    [None, '{"config": "bert"}', '{"format": 1}', "[1]", "not json", ""],
    ids=["no config", "config of another program", "half a config", "list", "text", "empty"],
)
def test_a_folder_that_is_not_a_run_is_refused_and_stays_even_when_told_to_overwrite(content, overwrite, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileExistsError, match="exists and is not a run; choose another folder"):
        Run.create(tmp_path, CONFIG, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_a_run_is_refused_and_stays(overwrite, tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match="exists and is not a run"):
            Run.create(tmp_path / name, CONFIG, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "text"


def test_a_run_below_a_file_is_an_error_of_the_system_that_names_it(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match="file"):
        Run.create(tmp_path / "file" / "run", CONFIG)


def test_a_run_is_opened_by_a_checkpoint_and_then_means_that_one(run, make_net):
    first, last = checkpoint(run, 1, make_net()), checkpoint(run, 2, make_net())
    assert Run.open(run.path).checkpoint == last
    assert Run.open(first).checkpoint == first
    assert Run.open(first).path == run.path
    assert Run.open(first).name == "a/epoch-0001"


def test_a_run_is_opened_from_inside_its_own_folders(run, make_net, monkeypatch):
    path = checkpoint(run, 1, make_net())
    monkeypatch.chdir(path.parent)
    opened = Run.open(path.name)
    assert (opened.path, opened.name) == (run.path, "a/epoch-0001")
    monkeypatch.chdir(run.path)
    assert Run.open(".").name == "a"
    assert Run.open(f"checkpoints/{path.name}").name == "a/epoch-0001"


def test_checkpoints_are_in_the_order_of_training_past_ten_thousand(run, make_net):
    paths = [checkpoint(run, epoch, make_net()) for epoch in (10000, 9999, 0, 12)]
    (paths[0].parent / "epoch-best.safetensors").touch()  # of somebody else
    assert run.checkpoints() == [paths[2], paths[3], paths[1], paths[0]]
    assert run.checkpoint == paths[0]


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_path_without_a_run_is_named(kind, tmp_path):
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    with pytest.raises(FileNotFoundError, match=rf"there is no run at .*{kind} \(no config\.json in it\)$"):
        Run.open(path)


def test_a_folder_of_runs_is_no_run_and_the_error_names_those_inside(run):
    Run.create(run.path.parent / "b", CONFIG)
    with pytest.raises(FileNotFoundError, match=r"there are runs in it: a, b$"):
        Run.open(run.path.parent)


def test_a_sweep_is_no_run_and_the_error_says_who_takes_it_and_names_its_runs(tmp_path):
    sweep = Sweep.create(tmp_path / "s", grid(CONFIG, {"seed": list(range(7))}))
    with pytest.raises(FileNotFoundError, match=r"it is a sweep, which msam analyze, .* take; it has no run yet$"):
        Run.open(sweep.path)
    list(sweep.prepared())
    sentence = r"take; name one of its runs \(run-01, run-02, run-03, run-04, run-05 and 2 more\)$"
    with pytest.raises(FileNotFoundError, match=sentence):
        Run.open(sweep.path)


def test_a_file_that_is_no_checkpoint_is_no_run(run):
    run.write_metrics([{"epoch": 1}])
    run.state_path.parent.mkdir()
    run.state_path.touch()
    for file in (run.path / "metrics.csv", run.state_path):
        with pytest.raises(FileNotFoundError, match=r" is no run; a RUN is a run directory, or an epoch in its check"):
            Run.open(file)


def test_a_run_that_is_removed_while_it_is_trained_is_not_made_again_by_half(run):
    shutil.rmtree(run.path)
    with pytest.raises(FileNotFoundError, match=r"was removed, or its config\.json, while it was being trained"):
        run.write_metrics([{"epoch": 1}])
    assert not run.path.exists()


def test_a_run_is_gone_on_with_the_settings_it_was_begun_with(run):
    other = TrainConfig(epochs=3, lr=0.5, settings={"hidden": 4})
    assert run.config_if_begun_with(other, ["rho", "seed", "out"]) == CONFIG
    with pytest.raises(
        ValueError, match=r"the run was begun with lr 0\.1, not 0\.5; leave that out, or --overwrite it"
    ):
        run.config_if_begun_with(other, {"lr", "rho"})
    with pytest.raises(ValueError, match="was begun with the setting hidden 3, not 4"):
        run.config_if_begun_with(other, {"settings"})


def test_epochs_are_whole_numbers_in_the_metrics(run):
    rows = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 1.0}]
    run.write_metrics(rows)
    assert repr(run.metrics()) == repr(rows)


def test_a_run_that_was_never_trained_has_no_checkpoint_and_says_what_to_do(run):
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint; train it first, or continue it with --resume"):
        Run.open(run.path).load_model(CONFIG.load_task())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"config": 3}',
        '{"config": null}',
        '{"config": {"epochs": "many"}}',
        '{"config": {"epochs": 0}}',
        '{"config": {"colour": 1}}',
        '{"config": {"rho": NaN}}',
        '{"format": "1", "config": {}}',
        '{"format": 1, "config": [{}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_config_is_named(content, run):
    (run.path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run: "):
        Run.open(run.path)


def changed(run, **entries):
    """Change entries of config.json, or take those out that are None."""
    file = run.path / "config.json"
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize("name", ["format", "config"])
def test_a_config_without_an_entry_names_it(name, run):
    changed(run, **{name: None})
    with pytest.raises(
        ValueError, match=rf"config\.json is not the config of a run: the entry '{name}' is missing; put"
    ):
        Run.open(run.path)


@pytest.mark.parametrize("name", sorted(CONFIG.to_dict().keys() - LATER))
def test_no_setting_that_is_missing_takes_its_default(name, run):
    changed(run, config={key: value for key, value in CONFIG.to_dict().items() if key != name})
    with pytest.raises(ValueError, match=rf"the entry '{name}' of the settings is missing; put the file back"):
        Run.open(run.path)


def test_a_config_from_before_an_entry_was_added_is_of_what_was_done_then(run):
    changed(run, config={key: value for key, value in CONFIG.to_dict().items() if key not in LATER})
    assert Run.open(run.path).config == CONFIG
    assert CONFIG.dropout == LATER["dropout"] == "same"
    assert CONFIG.trainable == LATER["trainable"] == "all"


def test_the_identity_of_a_config_is_that_from_before_an_entry_was_added():
    """Of the training states of older runs, that is; and it tells other values of the new entries apart."""
    old = {key: value for key, value in CONFIG.to_dict().items() if key not in LATER}
    assert CONFIG.identity == hash_of_settings(old)
    assert dataclasses.replace(CONFIG, dropout="fresh").identity != CONFIG.identity
    assert dataclasses.replace(CONFIG, trainable="*.bias").identity != CONFIG.identity
    assert dataclasses.replace(CONFIG, lr=0.2).identity != CONFIG.identity


def test_a_config_of_a_newer_version_is_refused_by_its_format_and_not_by_what_it_holds(run):
    changed(run, format=2, config={"colour": 1})
    with pytest.raises(
        ValueError, match=r"config\.json was written by a newer version \(format 2\); update the package"
    ):
        Run.open(run.path)


def test_a_config_that_is_no_text_is_named(run):
    (run.path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run: "):
        Run.open(run.path)


def test_the_model_of_a_run_has_the_weights_of_the_checkpoint_and_is_in_evaluation_mode(run):
    task = CONFIG.load_task()
    trained = task.model(seed=9)
    path = checkpoint(run, 1, trained)
    for opened in (Run.open(run.path), Run.open(path)):
        model = opened.load_model(task)
        assert not model.training
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


def test_a_checkpoint_of_another_model_is_named_when_loaded(run, make_net):
    path = checkpoint(run, 1, make_net())
    with pytest.raises(ValueError, match=rf"{path.name} is of another architecture"):
        Run.open(run.path).load_model(CONFIG.load_task())


def test_metrics_survive_to_the_last_digit(run):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]
    run.write_metrics(rows)
    assert run.metrics() == rows
    run.write_metrics(rows[:1])
    assert run.metrics() == rows[:1]


def test_a_run_is_complete_with_the_metrics_and_the_weights_of_its_last_epoch(run, make_net):
    run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    assert not run.is_complete
    checkpoint(run, 1, make_net())
    assert not run.is_complete
    checkpoint(run, 2, make_net())
    assert run.is_complete


def test_results_and_figures_have_their_places(run):
    assert run.result_path("spectrum", "abc").relative_to(run.path) == Path("results/spectrum-abc.npz")
    assert run.figure_path("slice.png").relative_to(run.path) == Path("figures/slice.png")
