from __future__ import annotations

import dataclasses
import json
import os

import pytest

from msam.config import TrainConfig
from msam.configs import write_config
from msam.run import Run
from msam.sweep import Sweep, grid, open_runs
from msam.training import train

TINY = TrainConfig(settings={"train_examples": 12, "hidden": 2}, epochs=1, batch_size=8)  # the last batch has 4
CONFIGS = grid(TINY, {"perturbation": ["none", "sam"], "seed": [0, 1]})


def finish(sweep: Sweep, *indices: int) -> None:
    """Train some of the runs."""
    for index, run in enumerate(sweep.prepared()):
        if index in indices:
            train(run.config.load_task(), run.config, run)


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep.create(tmp_path / "sweep", CONFIGS)


@pytest.fixture
def finished(sweep) -> Sweep:
    finish(sweep, *range(len(CONFIGS)))
    return sweep


def test_a_grid_has_every_combination_in_order_and_keeps_all_else():
    configs = grid(TINY, {"rho": [0.1, 0.2], "num_microbatches": [1, 4], "seed": [0, 1]})
    found = [(config.rho, config.num_microbatches, config.seed) for config in configs]
    assert found == [(rho, m, seed) for rho in (0.1, 0.2) for m in (1, 4) for seed in (0, 1)]
    assert all(dataclasses.replace(c, rho=TINY.rho, num_microbatches=1, seed=0) == TINY for c in configs)


def test_a_grid_has_what_is_not_perturbed_once_by_whatever_name():
    configs = grid(TrainConfig(), {"perturbation": ["none", "sam"], "rho": [0.0, 0.1], "num_microbatches": [1, 2]})
    found = [(config.perturbation, config.rho, config.num_microbatches) for config in configs]
    assert found == [("none", 0.0, 1), ("sam", 0.1, 1), ("sam", 0.1, 2)]


def test_a_grid_has_no_config_twice():
    configs = grid(TINY, {"rho": [0.1, 0.1, 0.2], "seed": [0, 0]})
    assert [config.rho for config in configs] == [0.1, 0.2]


def test_no_perturbation_is_in_a_grid_once_for_each_seed_whatever_the_radii_and_the_micro_batches():
    axes = {"perturbation": ["none", "sam", "asam"], "rho": [0.1, 0.2], "num_microbatches": [1, 2, 4], "seed": [0, 1]}
    configs = grid(TINY, axes)
    none = [config for config in configs if config.perturbation == "none"]
    assert [(c.rho, c.num_microbatches, c.seed) for c in none] == [(0.0, 1, 0), (0.0, 1, 1)]
    assert len(configs) == 2 + 2 * 2 * 3 * 2


def test_no_perturbation_as_the_base_is_in_a_grid_once_too():
    base = dataclasses.replace(TINY, perturbation="none")
    assert len(grid(base, {"num_microbatches": [1, 2], "rho": [0.1, 0.2]})) == 1


def test_a_grid_over_nothing_is_the_base():
    assert grid(TINY, {}) == [TINY]


def test_a_combination_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="cannot be split into 9 micro-batches"):
        grid(TINY, {"num_microbatches": [1, 9]})


def test_a_sweep_is_read_back_as_it_was_made(sweep):
    again = Sweep.open(sweep.path)
    assert again.configs == CONFIGS
    assert [again.run_path(i).name for i in range(2)] == ["run-01", "run-02"]


def test_the_same_settings_take_the_sweep_up_again(sweep):
    finish(sweep, 0)
    before = (sweep.path / "sweep.json").read_bytes()
    again = Sweep.create(sweep.path, CONFIGS)
    assert again.configs == CONFIGS
    assert (sweep.path / "sweep.json").read_bytes() == before
    assert [run.is_complete for run in again.prepared()] == [True, False, False, False]


def test_a_finished_run_is_left_as_it_is_when_the_sweep_is_taken_up(sweep):
    finish(sweep, 0)
    weights = Run.open(sweep.run_path(0)).checkpoint.read_bytes()
    list(Sweep.create(sweep.path, CONFIGS).prepared())
    assert Run.open(sweep.run_path(0)).checkpoint.read_bytes() == weights


@pytest.mark.parametrize("other", [CONFIGS[:-1], CONFIGS[::-1], [dataclasses.replace(c, lr=0.2) for c in CONFIGS]])
def test_other_settings_are_refused_and_the_sweep_stays(other, sweep):
    before = (sweep.path / "sweep.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds a sweep of other settings"):
        Sweep.create(sweep.path, other)
    assert (sweep.path / "sweep.json").read_bytes() == before


def test_a_run_of_other_settings_in_the_place_of_one_is_refused(sweep):
    run = next(sweep.prepared())
    write_config(run.path / "config.json", dataclasses.replace(CONFIGS[0], lr=0.3))
    with pytest.raises(ValueError, match=r"run-01 was trained with other settings than the sweep .*; move it away"):
        list(sweep.prepared())


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not a sweep"):
        Sweep.create(tmp_path, CONFIGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not a sweep"):
        Sweep.create(tmp_path / "file", CONFIGS)


def test_a_run_in_its_place_is_refused(tmp_path):
    Run.create(tmp_path / "run", TINY)
    with pytest.raises(FileExistsError, match="exists and is not a sweep"):
        Sweep.create(tmp_path / "run", CONFIGS)


def test_an_empty_folder_is_taken(tmp_path):
    assert Sweep.create(tmp_path, CONFIGS).configs == CONFIGS


def test_opening_what_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no sweep at"):
        Sweep.open(tmp_path)
    Run.create(tmp_path / "run", TINY)
    with pytest.raises(
        FileNotFoundError, match=r"there is no sweep at .*run \(no sweep\.json in it\); it is a single run$"
    ):
        Sweep.open(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"configs": 3}',
        '{"configs": [3]}',
        '{"configs": ["text"]}',
        '{"configs": [{"epochs": "many"}]}',
        '{"configs": [{"colour": 1}]}',
        '{"configs": [{"epochs": 0}]}',
    ],
)
def test_a_damaged_description_is_refused_by_name(text, sweep):
    (sweep.path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.json is not the description of a sweep"):
        Sweep.open(sweep.path)


def test_a_description_of_a_newer_version_is_refused_by_name(sweep):
    (sweep.path / "sweep.json").write_text('{"format": 2, "configs": {"colour": 1}}')
    with pytest.raises(
        ValueError, match=r"sweep\.json was written by a newer version \(format 2\); update the package"
    ):
        Sweep.open(sweep.path)


@pytest.mark.parametrize("name", ["format", "configs", "lr"])
def test_a_description_without_an_entry_names_it(name, sweep):
    content = json.loads((sweep.path / "sweep.json").read_text())
    del (content["configs"][1] if name == "lr" else content)[name]
    (sweep.path / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"is not the description of a sweep: the entry '{name}' .*is missing; put"):
        Sweep.open(sweep.path)


def test_a_sweep_that_was_killed_when_it_was_begun_can_be_begun_again(tmp_path):
    left = tmp_path / ".sweep.json.0123abcd.partial"
    left.write_text("half")
    os.utime(left, (0, 0))
    assert Sweep.create(tmp_path, CONFIGS).configs == CONFIGS
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_description_that_is_not_text_is_refused(sweep):
    (sweep.path / "sweep.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not the description of a sweep"):
        Sweep.open(sweep.path)


def test_the_description_is_json_with_a_format(sweep):
    written = json.loads((sweep.path / "sweep.json").read_text())
    assert written["format"] == 1
    assert [TrainConfig.from_dict(entry) for entry in written["configs"]] == CONFIGS


def test_an_unfinished_sweep_names_what_is_missing(sweep):
    finish(sweep, 0, 2)
    with pytest.raises(ValueError, match=r"is not finished \(run-02, run-04\)"):
        sweep.finished()


def test_a_sweep_with_nothing_trained_names_its_first_runs(tmp_path):
    many = Sweep.create(tmp_path / "many", grid(TINY, {"seed": list(range(8))}))
    with pytest.raises(ValueError, match=r"is not finished \(run-01, run-02, run-03, run-04, run-05\)"):
        many.finished()


def test_a_finished_sweep_gives_all_runs_in_order(finished):
    runs = finished.finished()
    assert [run.config for run in runs] == CONFIGS
    assert [run.name for run in runs] == ["run-01", "run-02", "run-03", "run-04"]


def test_runs_checkpoints_and_sweeps_are_opened_together_in_the_order_they_are_named(finished, tmp_path):
    lone = Run.create(tmp_path / "lone", dataclasses.replace(TINY, checkpoint_every=1))
    train(lone.config.load_task(), lone.config, lone)
    runs = open_runs([lone.path / "checkpoints" / "epoch-0000.safetensors", finished.path, str(lone.path)])
    assert [run.name for run in runs] == ["lone/epoch-0000", "run-01", "run-02", "run-03", "run-04", "lone"]


def test_opening_an_unfinished_sweep_or_nothing_fails(sweep, tmp_path):
    with pytest.raises(ValueError, match="is not finished"):
        open_runs([sweep.path])
    with pytest.raises(FileNotFoundError):
        open_runs([tmp_path / "nothing"])


@pytest.mark.parametrize(("model", "own"), [("mlp", {"hidden": 7}), ("cnn-gn", {"width": 8})])
def test_a_sweep_from_before_models_had_more_settings_is_gone_on_with(model, own, tmp_path):
    older = {"model": model, "hidden": 128, "width": 16, "train_examples": 12, "label_noise": 0.0, "data_seed": 0}
    made = Sweep.create(tmp_path / "sweep", [dataclasses.replace(TINY, settings=older | own)])
    today = [dataclasses.replace(TINY, settings={"train_examples": 12, "model": model} | own).completed()]
    assert today[0].settings["norm"] is None
    assert Sweep.create(made.path, today).configs == made.configs
    (run,) = made.prepared()
    assert run.config_if_begun_with(today[0], {"settings"}).settings == older | own
    other = dataclasses.replace(today[0], settings={**today[0].settings, "model": "resnet20", "hidden": None})
    with pytest.raises(FileExistsError, match="a sweep of other settings"):
        Sweep.create(made.path, [other])
    with pytest.raises(ValueError, match=f"was begun with the setting model {model}, not resnet20"):
        run.config_if_begun_with(other, {"settings"})
