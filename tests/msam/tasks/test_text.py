"""A language model on plain text: blocks, splits, losses per token."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from texts import save_config, save_model, write_glue
from torch import nn
from torch.nn import functional

from msam import load_task
from msam.data.tokens import trained
from msam.tasks.text import NO_TARGET, blocks

pytest.importorskip("tokenizers", reason="the extra hf is not installed")

SMALL = {"width": 8, "depth": 1, "heads": 2, "vocabulary": 280, "length": 6}
WORDS = [f"{chr(97 + n % 5)}{chr(97 + n % 3)}x" for n in range(200)]


@pytest.fixture
def book(tmp_path):
    """A text whose last tenth has words of its own."""
    file = tmp_path / "book.txt"
    file.write_text(" ".join([*WORDS[:180], *(["zebra"] * 13)]) + "\n", encoding="utf-8")
    return file


def test_blocks_hold_the_text_and_what_comes_next_and_the_rest_is_padding():
    for number in (2, 7, 8, 9):
        made = blocks(torch.arange(10, 10 + number), 4, pad=0)
        inputs, targets = made.inputs["input_ids"].flatten(), made.targets.flatten()
        kept = targets != NO_TARGET
        assert inputs[kept].tolist() == list(range(10, 9 + number))
        assert targets[kept].tolist() == list(range(11, 10 + number))
        assert (inputs[~kept] == 0).all()
        assert len(made) == math.ceil((number - 1) / 4)
    with pytest.raises(ValueError, match="the text has 1 tokens; there must be two at least"):
        blocks(torch.tensor([3]), 4, pad=0)


def test_the_loss_is_a_mean_over_the_tokens_of_all_blocks_and_not_over_blocks(book):
    task = load_task("text", {"data": str(book), **SMALL})
    model = task.model(seed=0).double().eval()
    objective = task.objective(model, batch_size=4)
    targets = task.train.targets
    assert (targets == NO_TARGET).any()  # the last block is ragged
    scores = model(task.train.inputs["input_ids"]).flatten(0, 1)
    expected = functional.cross_entropy(scores, targets.flatten(), ignore_index=NO_TARGET)
    assert torch.allclose(objective.loss(objective.weights), expected, rtol=1e-12)
    assert objective.num_examples == len(task.train)


def test_parts_follow_one_another_and_words_are_those_of_the_first(book):
    task = load_task("text", {"data": str(book), **SMALL, "validation_fraction": 0.2})
    whole = book.read_text(encoding="utf-8")
    ends = [task.about.index(word) for word in (" training", " validation", " test")]
    assert ends == sorted(ends)
    counts = [int((part.targets != NO_TARGET).sum()) for part in (task.train, task.validation, task.test)]
    assert "{} training, {} validation, {} test tokens".format(*counts) in task.about
    training = whole[: round(0.7 * len(whole)) + 4].rsplit(" ", 1)[0]
    words = trained(training.splitlines(keepends=True), kind="pieces", size=280, lower=False)
    assert task.vocabulary == words.hash
    ids = words.inner.encode_batch([training])[0].ids
    assert (
        task.train.inputs["input_ids"].flatten()[: len(ids) - 8].tolist()
        == words.numbers(training).tolist()[: len(ids) - 8]
    )
    tested = words.inner.decode(task.test.targets[task.test.targets != NO_TARGET].tolist()).split()
    assert tested == ["zebra"] * 13
    assert "zebra" not in words.inner.decode(task.train.targets[task.train.targets != NO_TARGET].tolist())


def test_a_subset_is_some_of_the_blocks(book):
    task, few = (load_task("text", {"data": str(book), **SMALL, "train_examples": n}) for n in (None, 5))
    rows = {tuple(row) for row in task.train.inputs["input_ids"].tolist()}
    assert len(few.train) == 5
    assert {tuple(row) for row in few.train.inputs["input_ids"].tolist()} <= rows
    assert few.model(seed=0).words.num_embeddings == task.model(seed=0).words.num_embeddings
    other = load_task("text", {"data": str(book), **SMALL, "train_examples": 5, "data_seed": 1})
    assert not torch.equal(other.train.inputs["input_ids"], few.train.inputs["input_ids"])


@pytest.mark.parametrize("name", ["text", "glue:mrpc"])
def test_settings_of_the_transformer_reach_it(name, book):
    given = {"data": str(book) if name == "text" else str(write_glue(book.parent, "mrpc")), "vocabulary": 280}
    given |= {"width": 12, "depth": 3, "heads": 2, "dropout": 0.25}
    model = load_task(name, given).model(seed=0)
    assert (model.words.embedding_dim, len(model.blocks), model.blocks[0].heads) == (12, 3, 2)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.25}
    if name == "text":
        untied = load_task(name, given | {"tied": "false"}).model(seed=0)
        assert sum(p.numel() for p in untied.parameters()) > sum(p.numel() for p in model.parameters())


def test_a_model_of_a_folder_takes_the_text(book, tmp_path):
    folder = save_config(tmp_path / "model", "GPT2")
    task = load_task("text", {"data": str(book), "model": f"hf:{folder}", "length": 6, "vocabulary": 280})
    model = task.model(seed=0).double().eval()
    objective = task.objective(model, batch_size=4)
    scores = model(task.train.inputs["input_ids"]).logits.flatten(0, 1)
    expected = functional.cross_entropy(scores, task.train.targets.flatten())
    assert torch.allclose(objective.loss(objective.weights), expected, rtol=1e-10)
    assert "untrained, from the config of" in task.about
    for part in (task.train, task.test):  # the library warns of padding without a mask
        assert torch.equal(part.inputs["attention_mask"] == 1, part.targets != NO_TARGET)
    save_model(tmp_path / "known", "GPT2LMHeadModel", vocab_size=300)
    words = trained([" ".join(WORDS)], kind="pieces", size=290, lower=False)
    words.inner.save(str(tmp_path / "known" / "tokenizer.json"))
    known = load_task("text", {"data": str(book), "model": f"hf:{tmp_path / 'known'}", "length": 6})
    assert f"({words.hash}); weights of" in known.about


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": "{}none"}, "there is no text at .*none; name a text file"),
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"test_fraction": 0.0}, "test_fraction must be above 0.*got 0.0 and 0.0"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "something must be left to train on; got 0.5 and 0.5"),
        ({"train_examples": 0}, r"train_examples must be between 1 and \d+; got 0"),
        ({"train_examples": 9999}, r"train_examples must be between 1 and \d+; got 9999"),
        ({"vocabulary": 100}, "vocabulary must be at least 260 for pieces; got 100"),
        ({"model": "lstm"}, "there is no model 'lstm'; there are: transformer, hf:FOLDER"),
        ({"test_fraction": 0.0001}, "the test part of .* has [01] tokens; there must be two at least"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_way_out(book, settings, sentence):
    given = {key: value.format(book) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        load_task("text", {"data": str(book), **SMALL, **given})


def test_a_length_beyond_the_model_is_refused(book, tmp_path):
    folder = save_config(tmp_path / "model", "GPT2")
    with pytest.raises(
        ValueError, match=r"length 17 is more than the 16 tokens that hf:.* takes; choose at most these"
    ):
        load_task("text", {"data": str(book), "model": f"hf:{folder}", "length": 17, "vocabulary": 280})


def test_a_text_that_moved_is_found_where_the_variable_says(book, monkeypatch):
    before = load_task("text", {"data": str(book), **SMALL})
    moved = book.rename(book.with_name("moved.txt"))
    with pytest.raises(FileNotFoundError, match="there is no text at"):
        load_task("text", {"data": str(book), **SMALL})
    monkeypatch.setenv("MSAM_DATA", str(moved))
    after = load_task("text", {"data": str(book), **SMALL})
    assert torch.equal(after.train.targets, before.train.targets)


@pytest.mark.parametrize(
    ("hidden", "name", "settings", "extra"),
    [
        ("tokenizers", "text", SMALL, "hf"),
        ("pyarrow", "glue:sst2", {}, "data"),
        ("pyarrow", "cifar10", {}, "data"),
        ("transformers", "digits", {"model": "hf:."}, "hf"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_with_the_command(hidden, name, settings, extra, book, monkeypatch):
    monkeypatch.setitem(sys.modules, hidden, None)
    for split in ("train", "test", "validation"):
        (book.parent / f"{split}.parquet").write_bytes(b"PAR1")
    (book.parent / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTForImageClassification"]}')
    monkeypatch.chdir(book.parent)
    where = {} if name == "digits" else {"data": str(book if name == "text" else book.parent)}
    with pytest.raises(Exception, match=rf"pip install '?msam-landscape\[{extra}\]") as error:
        load_task(name, where | settings)
    assert "\n" not in str(error.value)
