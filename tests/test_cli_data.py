"""Files of images from the command line: trained on, moved, validated with, and refused where there are none."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from commands import json_of, msam, refused
from made_up_images import cifar_parquet
from texts import save_config, write_glue

from msam.data.tokens import trained

TRAIN = "train --task cifar10 --model mlp --set hidden=2 --epochs 1 --batch-size 20 --micro-batches 2"
FEW = "-k 1 --probes 2 --steps 2"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data in it, which is the working directory."""
    monkeypatch.delenv("MSAM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    cifar_parquet(tmp_path / "data", 60)
    return tmp_path


def test_a_run_is_trained_validated_and_measured_on_all_its_splits(place):
    trained = json_of(TRAIN, "--data data --set validation_examples=20 --out a")
    assert trained["config"]["settings"]["data"] == str(place / "data")
    with (place / "a" / "metrics.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert list(row)[:7] == [
        *("epoch", "lr", "train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    ]
    assert trained["validation_loss"] == pytest.approx(float(row["validation_loss"]))
    found = {}
    for split in ("train", "validation", "test"):
        found[split] = json_of("spectrum a --dry-run", FEW, "--split", split)["manifest"]["objective"]
    assert [found[split]["num_examples"] for split in found] == [40, 20, 10]
    assert len({found[split]["data"] for split in found}) == 3
    assert "NormalizedPixels" in found["train"]["forward"]
    assert "mean=[0.4914, 0.4822, 0.4465]" in found["train"]["forward"]
    sliced = json_of("slice a --points 2 --split validation")["line"]
    assert sliced["manifest"]["objective"]["split"] == "validation"
    assert "validation accuracy (%)" in msam(TRAIN, "--data data --set validation_examples=20 --out b").stdout


def test_a_study_and_its_report_have_the_validation_set_where_there_is_one(place):
    trained = json_of(TRAIN, "--data data --set validation_examples=20 --out a")
    found = msam("compare a", FEW, "--points 2 --plane-points 2 --split validation --out r.html")
    assert found.exit_code == 0, found.output
    assert "validation accuracy (%)" in found.stdout
    report = (place / "r.html").read_text()
    assert "validation loss" in report
    assert "on 20 examples of the validation split" in report
    (row,) = json_of("analyze a", FEW, "--points 2 --plane-points 2 --split validation")["runs"]
    assert row["validation_loss"]["value"] == pytest.approx(trained["validation_loss"], rel=1e-5)
    assert row["validation_accuracy"]["value"] == pytest.approx(trained["validation_accuracy"])


def test_a_run_is_measured_after_its_data_have_moved(place, monkeypatch):
    json_of(TRAIN, "--data data --out a")
    before = json_of("spectrum a --dry-run", FEW)["manifest"]
    shutil.move(place / "data", place / "elsewhere")
    sentence = refused("spectrum a", status=2)
    assert sentence.startswith(f"there is no data at {place / 'data'} (no such folder); put the files of CIFAR-10 into")
    monkeypatch.setenv("MSAM_DATA", str(place / "elsewhere"))
    assert json_of("spectrum a --dry-run", FEW)["manifest"]["objective"] == before["objective"]


def test_a_run_is_gone_on_with_and_a_sweep_taken_up_with_the_same_folder(place):
    json_of(TRAIN, "--data data --out a")
    assert msam(TRAIN, "--data data --resume --out a").exit_code == 0
    shutil.copytree(place / "data", place / "other")
    assert "the run was begun with" in refused(TRAIN, "--data other --resume --out a", status=2)
    swept = "sweep --task cifar10 --model mlp --set hidden=2 --epochs 1 --batch-size 20 --micro-batches 1 --seeds 1"
    for _ in range(2):
        assert len(json_of(swept, "--data data --out s")["runs"]) == 1


def test_without_a_validation_set_the_split_is_refused_and_no_column_is_written(place):
    assert "validation_loss" not in json_of(TRAIN, "--data data --out a")
    assert "has no validation set with these settings" in refused("spectrum a --split validation", status=2)


def test_what_is_wrong_with_the_data_is_one_sentence(place):
    assert refused("train --data data --out a", status=2) == "the task digits reads no files; leave out --data data"
    assert "--data data and --set data=x differ" in refused(TRAIN, "--data data --set data=x --out a", status=2)
    assert "there is no data at" in refused(TRAIN, "--data nowhere --out a", status=2)
    assert "it is not said where the files of CIFAR-10 are" in refused(TRAIN, "--out a", status=2)
    file = place / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    sentence = refused(TRAIN, "--data data --out a", status=2)
    assert sentence.startswith("data/train-00000-of-00001.parquet is not a whole parquet file") or (
        f"{file} is not a whole parquet file" in sentence
    )
    assert not (place / "a").exists()


def test_a_setting_in_two_ways_and_an_empty_path_are_refused(place):
    sentence = refused(TRAIN, "--data data --set hidden=3 --out a", status=2)
    assert sentence == "--set hidden=2 and --set hidden=3 differ; give one of them"
    assert json_of(TRAIN, "--data data --set hidden=2 --out a")["config"]["settings"]["hidden"] == 2
    sentence = refused(TRAIN, "--set data= --out b", status=2)
    assert sentence == "--set data= has no path after it; the working directory is data=."
    assert not (place / "b").exists()


def test_a_run_of_a_model_and_a_tokenizer_in_folders_is_measured_from_everywhere(place, monkeypatch):
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    write_glue(place / "sst2", "sst2")
    save_config(place / "models" / "bert", "Bert")
    trained(["warm film", "dull story"], kind="words", size=40, lower=True).inner.save(str(place / "words.json"))
    settings = json_of(
        "train --task glue:sst2 --data sst2 --model hf:models/bert --set tokenizer=words.json --epochs 1 --out a"
    )["config"]["settings"]
    assert [settings[name] for name in ("data", "model", "tokenizer")] == [
        *(str(place / "sst2"), f"hf:{place}/models/bert", str(place / "words.json"))
    ]
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert json_of("spectrum ../a --dry-run", FEW)["manifest"]["objective"]["num_examples"] == 23


def test_digits_are_validated_with_too(tmp_path):
    short = "train --epochs 1 --set hidden=4 --set train_examples=100"
    trained = json_of(short, "--set validation_examples=200 --out", str(tmp_path / "a"))
    before = json_of(short, "--out", str(tmp_path / "b"))
    assert 0 <= trained["validation_accuracy"] <= 1
    assert "validation_accuracy" not in before
    measured = json_of("spectrum --dry-run", str(tmp_path / "a"), FEW, "--split validation")
    assert measured["manifest"]["objective"]["num_examples"] == 200
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["config"]["settings"]["validation_examples"] == 0
