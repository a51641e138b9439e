"""The tasks of GLUE: their files, splits and words, and runs of them from the command line."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from commands import json_of, refused
from texts import GOOD, glue_table, save_config, save_model, write_glue, write_table
from torch.nn import functional

from msam import Run, TrainConfig, evaluate, load_task, train
from msam.adoption import adopt
from msam.data.tokens import trained
from msam.tasks.glue import GLUE

pytest.importorskip("tokenizers", reason="the extra hf is not installed")

SMALL = {"width": 8, "depth": 1, "heads": 2, "vocabulary": 40}


@pytest.fixture(scope="module")
def sst2(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("sst2"), "sst2")


@pytest.mark.parametrize("name", GLUE)
def test_each_task_is_read_from_its_files_and_its_loss_is_the_models(name, tmp_path):
    write_glue(tmp_path / name, name)
    kind = GLUE[name]
    for folder in (tmp_path, tmp_path / name):
        task = load_task(f"glue:{name}", {"data": str(folder), **SMALL})
        assert task.name == f"glue:{name}"
        assert (len(task.train), len(task.test), task.validation) == (23, 9, None)
    assert ("token_type_ids" in task.train.inputs) == (len(kind.columns) == 2)
    model = task.model(seed=0).double().eval()
    objective = task.objective(model, batch_size=10)
    outputs = model(**task.train.inputs)
    if kind.classes is None:
        assert task.train.targets[:3].tolist() == [0.0, 1.25, 0.0]
        expected = (outputs[:, 0] - task.train.targets).square().mean()
    else:
        assert outputs.shape == (23, kind.classes)
        expected = functional.cross_entropy(outputs, task.train.targets)
    assert torch.allclose(objective.loss(objective.weights), expected, rtol=1e-12)
    assert "which are GLUE's validation data, since the labels of its test data are hidden" in task.about


def test_files_may_bear_the_name_of_the_task(tmp_path):
    for split, number in (("train", 10), ("validation", 4)):
        write_table(tmp_path / f"sst2-{split}.parquet", glue_table("sst2", number))
        write_table(tmp_path / f"{split}.parquet", glue_table("mrpc", 6))
    task = load_task("glue:sst2", {"data": str(tmp_path), **SMALL})
    assert (len(task.train), len(task.test)) == (10, 4)
    assert len(load_task("glue:mrpc", {"data": str(tmp_path), **SMALL}).train) == 6
    write_glue(tmp_path / "mnli", "mnli")
    write_table(tmp_path / "mnli" / "validation_mismatched-00000-of-00001.parquet", glue_table("mnli", 5))
    assert len(load_task("glue:mnli", {"data": str(tmp_path), **SMALL}).test) == 9  # of the matched half


def test_the_words_are_those_of_the_sentences_that_are_trained_on(tmp_path):
    table = {"sentence": ["good film", "bad film", "good good", "bad bad"], "label": [1, 0, 1, 0]}
    write_table(tmp_path / "train.parquet", table)
    write_table(tmp_path / "validation.parquet", {"sentence": ["GOOD unseen film", "bad"], "label": [1, 0]})
    task = load_task("glue:sst2", {"data": str(tmp_path), **SMALL})
    # pad, unknown, begin, end, bad, good, film
    assert task.test.inputs["input_ids"].tolist() == [[2, 5, 1, 6, 3], [2, 4, 3, 0, 0]]
    few = load_task("glue:sst2", {"data": str(tmp_path), **SMALL, "train_examples": 2})
    words = trained(list(table["sentence"]), kind="words", size=40, lower=True)
    assert words.hash in task.about
    assert words.hash not in few.about


def test_parts_are_disjoint_stratified_and_as_large_as_asked_for(sst2):
    settings = {"data": str(sst2), **SMALL, "tokenizer": "pieces", "vocabulary": 400}
    whole = load_task("glue:sst2", settings)
    parts = [
        load_task("glue:sst2", {**settings, "validation_examples": 8, "train_examples": 10, "data_seed": seed})
        for seed in (0, 0, 1)
    ]
    for task in parts:
        assert (len(task.train), len(task.validation), len(task.test)) == (10, 8, len(whole.test))
        assert task.train.targets.bincount().tolist() == [5, 5]
        assert task.validation.targets.bincount().tolist() == [4, 4]
        assert "10 training texts" in task.about
    first, again, other = parts
    assert torch.equal(first.train.inputs["input_ids"], again.train.inputs["input_ids"])
    assert not torch.equal(first.train.inputs["input_ids"], other.train.inputs["input_ids"])
    assert torch.equal(first.validation.targets, other.validation.targets)


def test_parts_of_a_regression_are_disjoint_and_as_large_as_asked_for(tmp_path):
    settings = {"data": str(write_glue(tmp_path, "stsb")), **SMALL, "validation_examples": 8}
    task, few = (load_task("glue:stsb", {**settings, "train_examples": number}) for number in (None, 10))
    assert (len(task.train), len(task.validation), len(few.train)) == (15, 8, 10)
    assert torch.equal(few.validation.targets, task.validation.targets)
    whole = load_task("glue:stsb", settings | {"validation_examples": 0}).train.targets
    assert torch.equal(torch.cat([task.train.targets, task.validation.targets]).sort()[0], whole.sort()[0])


def test_label_noise_is_of_the_training_labels_alone(sst2):
    clean, noisy = (load_task("glue:sst2", {"data": str(sst2), **SMALL, "label_noise": n}) for n in (0.0, 1.0))
    assert torch.equal(clean.train.inputs["input_ids"], noisy.train.inputs["input_ids"])
    assert torch.equal(clean.test.targets, noisy.test.targets)
    assert not torch.equal(clean.train.targets, noisy.train.targets)
    assert "100% of the training labels drawn at random" in noisy.about
    other = load_task("glue:sst2", {"data": str(sst2), **SMALL, "label_noise": 1.0, "data_seed": 1})
    assert torch.equal(other.train.inputs["input_ids"], noisy.train.inputs["input_ids"])
    assert not torch.equal(other.train.targets, noisy.train.targets)


def test_long_sentences_are_cut_when_told_and_it_is_said(sst2):
    task = load_task(
        "glue:sst2", {"data": str(sst2), **SMALL, "max_length": 8, "tokenizer": "pieces", "vocabulary": 262}
    )
    assert task.train.inputs["input_ids"].shape == (23, 8)
    assert "training texts cut to 8 tokens, 9 test texts cut to 8 tokens" in task.about
    assert task.model(seed=0).places.num_embeddings == 8


def test_two_makings_of_a_task_are_the_same_data_and_the_same_model(sst2):
    one, other = (load_task("glue:sst2", {"data": str(sst2), **SMALL}) for _ in range(2))
    assert one.about == other.about
    for part, again in ((one.train, other.train), (one.test, other.test)):
        assert all(torch.equal(tensor, again.inputs[key]) for key, tensor in part.inputs.items())
    weights = [torch.nn.utils.parameters_to_vector(task.model(seed=3).parameters()) for task in (one, other)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "GPT2", "DistilBert", "T5"])
def test_a_model_of_a_folder_takes_the_task(kind, tmp_path):
    write_glue(tmp_path, "mrpc")
    folder = save_config(tmp_path / "model", kind)
    task = load_task("glue:mrpc", {"data": str(tmp_path), "model": f"hf:{folder}", "vocabulary": 40, "max_length": 14})
    assert "untrained, from the config of" in task.about
    model = task.model(seed=0).eval()
    assert type(model).__name__.startswith(kind)
    assert ("token_type_ids" in task.train.inputs) == (kind in ("Bert", "Roberta"))
    objective = task.objective(model, batch_size=10)
    expected = functional.cross_entropy(model(**task.train.inputs).logits, task.train.targets)
    assert torch.allclose(objective.loss(objective.weights), expected, rtol=1e-5)


def test_weights_of_a_folder_come_with_their_own_tokenizer(sst2, tmp_path):
    save_model(tmp_path, "BertForPreTraining", num_labels=2)
    settings = {"data": str(sst2), "model": f"hf:{tmp_path}"}
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at"):
        load_task("glue:sst2", settings)
    with pytest.raises(ValueError, match=r"the weights of .* belong to their own tokenizer; leave out tokenizer=words"):
        load_task("glue:sst2", settings | {"tokenizer": "words"})
    words = trained(list(GOOD), kind="words", size=40, lower=True)
    words.inner.save(str(tmp_path / "tokenizer.json"))
    task = load_task("glue:sst2", settings)
    assert f"the tokenizer of {tmp_path} ({words.hash}); weights of {tmp_path}; classifier" in task.about
    assert task.train.inputs["input_ids"].max() == 7  # four special ones, and four words
    with pytest.raises(ValueError, match="max_length 17 is more than the 16 tokens that hf:"):
        load_task("glue:sst2", settings | {"max_length": 17})
    short = save_config(tmp_path / "short", "Bert", max_position_embeddings=8)
    settings = {"data": str(sst2), "model": f"hf:{short}", "tokenizer": "pieces", "vocabulary": 262}
    with pytest.raises(ValueError, match=r"23 of 23 training texts .* \(8\), up to \d+; cut them with max_length=8"):
        load_task("glue:sst2", settings)
    assert load_task("glue:sst2", settings | {"max_length": 8}).train.inputs["input_ids"].shape == (23, 8)
    words.inner.save(str(short / "tokenizer.json"))  # beside a config alone it is taken where none is named
    task = load_task("glue:sst2", {"data": str(sst2), "model": f"hf:{short}"})
    assert f"the tokenizer of {short} ({words.hash}); untrained" in task.about


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": "{}/nowhere"}, r"nowhere is no folder; put sst2-train\*.parquet or sst2/train\*.parquet or"),
        ({"model": "bert"}, r"there is no model 'bert'; there are: transformer, hf:FOLDER"),
        ({"model": "hf:{}/none"}, "there is no folder '.*none', and nothing is downloaded unless asked for"),
        ({"heads": 3}, "heads divide width; got 8, 1 and 3"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1; got 1.0"),
        ({"max_length": 3}, "max_length must be at least 8 tokens; got 3"),
        ({"train_examples": 1}, "train_examples must be between 2 and 21, or 23.*; got 1"),
        ({"train_examples": 24}, "train_examples must be between 2 and 21, or 23.*; got 24"),
        ({"validation_examples": 22}, "validation_examples must be between 2 and 21; got 22"),
        ({"label_noise": 2.0}, "label_noise must be between 0 and 1.*; got 2.0"),
        ({"data_seed": -1}, "data_seed must be between 0 and .*; got -1"),
        ({"vocabulary": 3}, "vocabulary must be at least 5 for words; got 3"),
        ({"tokenizer": "{}/none.json"}, "there is no tokenizer at .*none.json"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_way_out(sst2, settings, sentence):
    given = {key: value.format(sst2) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        load_task("glue:sst2", {"data": str(sst2), **SMALL, **given})


def test_a_regression_has_no_label_noise(tmp_path):
    write_glue(tmp_path, "stsb")
    with pytest.raises(ValueError, match=r"label_noise must be between 0 and 1, and 0 for a regression; got 0.5"):
        load_task("glue:stsb", {"data": str(tmp_path), **SMALL, "label_noise": 0.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_value_that_is_no_number_is_refused(value, tmp_path):
    table = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1.0, value]}
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.parquet", table)
    with pytest.raises(ValueError, match=f"the label in row 2 of .*train.parquet is {value}; it must be a number"):
        load_task("glue:stsb", {"data": str(tmp_path), **SMALL})


def test_a_class_without_sentences_is_refused(tmp_path):
    table = {"sentence": ["a", "b", "c"], "label": [0, 0, 1]}
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.parquet", table)
    with pytest.raises(ValueError, match="only 1 of 3 training texts have the label 1; each class needs two"):
        load_task("glue:sst2", {"data": str(tmp_path), **SMALL})


def test_a_task_that_glue_does_not_have_is_refused():
    with pytest.raises(ValueError, match="there is no task 'glue:sst'; did you mean 'glue:sst2'"):
        load_task("glue:sst", {})


def test_a_run_is_trained_and_measured_from_the_command_line(sst2, tmp_path):
    settings = [f"--set {name}={value}" for name, value in {"data": sst2, **SMALL, "dropout": 0.1}.items()]
    trained_run = json_of("train --task glue:sst2", *settings, "--micro-batches 2 --batch-size 12 --epochs 8",
                          "--optimizer adamw --lr 0.03", "--out", str(tmp_path / "a"))  # fmt: skip
    assert trained_run["test_accuracy"] > 0.7
    measured = json_of("spectrum", str(tmp_path / "a"), "-k 1 --probes 4 --steps 3")
    assert measured["eigenvalues"]["manifest"]["objective"]["dim"] > 500
    refused("train --task glue:sst2 --out", str(tmp_path / "b"), status=2)


def test_weights_are_not_given_the_numbers_of_other_words(tmp_path):
    write_glue(tmp_path, "sst2")
    settings = {"data": str(tmp_path), **SMALL}
    config = TrainConfig(task="glue:sst2", settings=settings, epochs=2, batch_size=12)
    run = train(config.load_task(), config, Run.create(tmp_path / "a", config))
    evaluate(run.load_model(config.load_task()), functional.cross_entropy, config.load_task().test)
    table = glue_table("sst2", 23)
    table["sentence"] = [text.replace("story", "tale") for text in table["sentence"]]
    write_table(next(tmp_path.glob("train*")), table)
    (run.path / "metrics.csv").unlink()
    for ask in (lambda task: run.load_model(task), lambda task: train(task, config, run)):
        with pytest.raises(
            ValueError, match=r"was trained with the vocabulary .*, and the task glue:sst2 has .* now; put"
        ):
            ask(config.load_task())


def test_weights_from_elsewhere_are_not_given_the_numbers_of_other_words_either(tmp_path):
    write_glue(tmp_path / "old", "sst2")
    settings = {"data": str(tmp_path / "old"), **SMALL}
    config = TrainConfig(task="glue:sst2", settings=settings, epochs=1, batch_size=12)
    run = train(config.load_task(), config, Run.create(tmp_path / "a", config))
    write_glue(tmp_path / "new", "sst2")
    table = glue_table("sst2", 23)
    table["sentence"] = [text.replace("story", "tale") for text in table["sentence"]]
    write_table(next((tmp_path / "new").glob("train*")), table)
    torch.save(run.load_model(config.load_task()).state_dict(), tmp_path / "b.pt")
    said: list[str] = []
    with pytest.raises(ValueError, match=r"epoch-0001\.safetensors was trained with the vocabulary .* has .* now; put"):
        adopt(run.checkpoint, "glue:sst2", settings=settings | {"data": str(tmp_path / "new")}, say=said.append)
    adopted = adopt(tmp_path / "b.pt", "glue:sst2", settings=settings, say=said.append)
    adopted.load_model(adopted.load_task())
    shutil.copy(next((tmp_path / "new").glob("train*")), next((tmp_path / "old").glob("train*")))
    with pytest.raises(ValueError, match=r"adopted\.safetensors was trained with the vocabulary"):
        adopted.load_model(adopted.config.load_task())


def test_the_tasks_are_listed_with_what_they_need():
    assert json_of("tasks")["tasks"]["glue:mnli"].startswith("GLUE mnli: a premise and a hypothesis")
    rows = {row["setting"]: row for row in json_of("tasks show glue:sst2")["settings"]}
    assert rows["data"]["type"].startswith("Path")
    assert rows["max_length"] == {
        "setting": "max_length",
        "type": "int or none",
        "default": "none",
        "about": "longer texts are cut to so many tokens; none are when left out.",
    }
    assert all(row["about"] for row in rows.values())
    assert all(row["about"] for row in json_of("tasks show text")["settings"])


def test_a_task_is_whole():
    assert len(GLUE) == 9
    assert all(dataclasses.is_dataclass(kind) for kind in GLUE.values())
