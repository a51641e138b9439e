"""A checkpoint from elsewhere becomes a run once, is told from others by its bytes, and has no training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from landscape.files import LONG_AGO
from msam import Run, TrainConfig, load_task
from msam.adopted import Adopted
from msam.adoption import adopt, run_path
from msam.checkpoints import read_weights, save_weights

SETTINGS = {"hidden": 3, "train_examples": 20}


@pytest.fixture
def file(tmp_path):
    """A checkpoint, nested and wrapped."""
    return saved(tmp_path / "b.pt", seed=1)


def saved(path, *, seed):
    state = load_task("digits", SETTINGS).model(seed=seed).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


def adopted(path, said=None, *, settings=SETTINGS):
    return adopt(path, "digits", settings=settings, say=[].append if said is None else said.append)


def test_the_run_stands_beside_the_file_and_says_where_it_comes_from(file):
    said: list[str] = []
    run = adopted(file, said)
    assert run.path == file.parent / "b-msam"
    assert said == [
        "b.pt: the weights are its entry 'state_dict'",
        "b.pt: 'module.' is stripped from 4 names",
        "b.pt: left out: epoch",
        f"b.pt: adopted as {run.path}",
    ]
    opened = Run.open(run.path)
    assert isinstance(opened.config, Adopted)
    assert (opened.config.file, len(opened.config.sha256), opened.config.key) == (str(file), 64, "")
    assert [f"b.pt: {remark}" for remark in opened.config.remarks] == said[:-1]
    assert opened.config.settings["label_noise"] == 0.0  # all settings, so that later defaults do not change it
    expected = load_task("digits", SETTINGS).model(seed=1).state_dict()
    found = opened.load_model(opened.config.load_task()).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_same_file_is_adopted_once_and_says_the_same(file):
    first, second = [], []
    run = adopted(file, first)
    (run.path / "results").mkdir()
    assert adopted(file, second).path == run.path
    assert first == second
    assert sorted(path.name for path in file.parent.iterdir()) == ["b-msam", "b.pt"]


def test_other_bytes_another_task_and_another_entry_are_other_runs(file):
    first = adopted(file)
    assert adopted(file, settings=SETTINGS | {"train_examples": 30}).path.name == "b-msam-2"
    assert adopted(f"{file}:state_dict").path.name == "b-state_dict-msam"
    before = read_weights(first.checkpoint)
    saved(file, seed=2)
    changed = adopted(file)
    assert changed.path.name == "b-msam-3"
    assert not torch.equal(read_weights(changed.checkpoint)["1.weight"], before["1.weight"])
    assert torch.equal(read_weights(first.checkpoint)["1.weight"], before["1.weight"])
    saved(file, seed=1)
    assert adopted(file).path == first.path


def test_a_copy_that_is_damaged_is_not_taken_up(file):
    first = adopted(file)
    first.checkpoint.write_bytes(first.checkpoint.read_bytes()[:-4])
    assert adopted(file).path.name == "b-msam-2"


def test_what_stands_at_the_place_is_left_alone(file):
    (file.parent / "b-msam").write_text("mine")
    assert adopted(file).path.name == "b-msam-2"
    assert (file.parent / "b-msam").read_text() == "mine"


def test_a_refused_file_leaves_nothing(file):
    before = sorted(file.parent.iterdir())
    said: list[str] = []
    with pytest.raises(ValueError, match="is of another architecture than the model"):
        adopted(file, said, settings={"hidden": 4, "train_examples": 20})
    assert sorted(file.parent.iterdir()) == before
    assert said == []  # three shapes are in the sentence itself


def test_a_file_that_changes_while_it_is_read_is_refused(file, monkeypatch):
    digests = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr("msam.adoption.digest", lambda _: next(digests))
    with pytest.raises(ValueError, match="was changed while it was being read; give the same command again"):
        adopted(file)


def test_another_process_that_adopts_at_the_same_time_is_followed(file, monkeypatch):
    """The other is done between the look for it and the move."""
    looks = []

    def late(model, path, *, vocabulary):
        save_weights(model, path, vocabulary=vocabulary)
        if not looks:
            looks.append(1)
            adopted(file)

    monkeypatch.setattr("msam.adoption.save_weights", late)
    assert adopted(file).path.name == "b-msam"
    assert sorted(path.name for path in file.parent.iterdir()) == ["b-msam", "b.pt"]


def test_what_a_killed_adoption_left_is_removed_when_it_is_old(file):
    old, new = (file.parent / f".b-msam.{name}.adopting" for name in ("00000000", "11111111"))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, new.stat().st_mtime - LONG_AGO - 1))
    adopted(file)
    assert (old.exists(), new.exists()) == (False, True)


def test_where_only_the_working_directory_may_be_written_it_serves(file, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != file.parent and access(path, mode))
    assert adopted(file).path == Path("b-msam")
    assert (tmp_path / "here" / "b-msam" / "config.json").is_file()


def test_a_link_and_a_folder_give_their_own_names(file, tmp_path, monkeypatch):
    (tmp_path / "linked.pt").symlink_to(file)
    assert adopted(tmp_path / "linked.pt").path == tmp_path / "linked-msam"
    (tmp_path / "net").mkdir()
    file.rename(tmp_path / "net" / "pytorch_model.bin")
    assert adopted(tmp_path / "net").path == tmp_path / "net-msam"
    monkeypatch.chdir(tmp_path / "net")
    assert adopted(".").path == tmp_path / "net-msam"


def test_nothing_is_said_of_a_training(file):
    run = adopted(file)
    assert run.metrics() == []
    assert run.checkpoints() == [run.checkpoint]
    for ask in (lambda: run.training, lambda: run.about, lambda: run.is_complete, run.outcome):
        with pytest.raises(ValueError, match=r"nothing is known of how .*b-msam was trained, as its weights come from"):
            ask()
    with pytest.raises(FileExistsError, match="holds a run already"):
        Run.create(run.path, TrainConfig())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry.pop("sha256"), "missing"),
        (lambda entry: entry.update(lr=0.1), "unexpected"),
        (lambda entry: entry.update(task=3), "the entry task is 3"),
    ],
)
def test_a_damaged_config_is_refused(change, words, file):
    place = adopted(file).path / "config.json"
    content = json.loads(place.read_text())
    change(content["adopted"])
    place.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"config\.json is not the config of a run: .*{words}"):
        Run.open(place.parent)


def test_runs_are_told_from_weights(file, tmp_path):
    run = adopted(file)
    for path in (run.path, run.checkpoint, tmp_path / "none"):
        assert run_path(path, like=run, say=print) == path
    other = saved(tmp_path / "c.pt", seed=2)
    said: list[str] = []
    assert run_path(Path(f"{other}:state_dict"), like=run, say=said.append) == tmp_path / "c-state_dict-msam"
    assert said[-1].startswith("c.pt:state_dict: adopted as ")


def test_weights_of_other_words_are_neither_adopted_nor_loaded(file):
    run = adopted(file)
    task, sentence = run.load_task(), "was trained with the vocabulary a1b2, and the task digits has none now"
    for path in (run.checkpoint, file.with_name("c.safetensors")):
        save_weights(task.model(seed=0), path, vocabulary="a1b2")
    with pytest.raises(ValueError, match=rf"c\.safetensors {sentence}"):
        adopted(file.with_name("c.safetensors"))
    with pytest.raises(ValueError, match=rf"adopted\.safetensors {sentence}"):
        run.load_model(task)
