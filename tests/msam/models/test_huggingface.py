"""Models from a folder: with its weights or untrained, fitted to the task, and never downloaded unless asked for."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from texts import save_config, save_model
from torch.nn import functional

from landscape import Objective
from msam import load_task
from msam.models.huggingface import from_folder, has_weights, local_folder

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

IDS = torch.tensor([[2, 5, 6, 3]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with little models: their weights, or their config alone."""
    root = tmp_path_factory.mktemp("models")
    save_model(root / "pretrained", "BertForPreTraining")
    save_model(root / "five", "BertForSequenceClassification", num_labels=5)
    save_model(root / "language", "GPT2LMHeadModel")
    for kind in ("Bert", "Roberta", "GPT2", "T5", "ViT", "DeiT"):
        more = {"image_size": 8, "patch_size": 4} if kind.endswith("iT") else {}
        save_config(root / kind.lower(), kind, **more)
    return root


def same(one, other) -> list[str]:
    """The parameters that two models agree in."""
    others = dict(other.named_parameters())
    return [name for name, p in one.named_parameters() if torch.equal(p, others[name])]


def built(made, seed):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return made()


def test_weights_come_from_the_folder_and_a_head_that_is_missing_begins_at_random(folders):
    state = torch.get_rng_state()
    made = from_folder(folders / "pretrained", kind="sequence", outputs=3, words=40, pad=0)
    assert torch.equal(state, torch.get_rng_state())
    stored = transformers.BertForPreTraining.from_pretrained(folders / "pretrained")
    model, again, other = (built(made, seed) for seed in (0, 0, 1))
    assert model(IDS).logits.shape == (1, 3)
    for name, p in model.bert.named_parameters():
        assert torch.equal(p, dict(stored.bert.named_parameters())[name])
    everything = [name for name, _ in model.named_parameters()]
    assert same(model, again) == everything
    assert set(everything) - set(same(model, other)) == {"classifier.weight"}  # its bias begins at zero
    assert made.about == f"weights of {folders / 'pretrained'}; classifier.bias, classifier.weight begin at random"


def test_weights_may_be_in_several_files(folders, tmp_path):
    stored = transformers.BertForSequenceClassification.from_pretrained(folders / "five")
    stored.save_pretrained(tmp_path, max_shard_size="2KB")
    assert not (tmp_path / "model.safetensors").exists()
    made = from_folder(tmp_path, kind="sequence", outputs=5)
    assert made.about == f"weights of {tmp_path}"
    assert len(same(built(made, 0), stored)) == len(list(stored.parameters()))


def test_weights_in_half_precision_are_trained_in_single(tmp_path):
    save_model(tmp_path, "BertForSequenceClassification").bfloat16().save_pretrained(tmp_path)
    model = built(from_folder(tmp_path, kind="sequence", outputs=2), 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_head_for_another_number_of_classes_is_replaced_and_one_for_the_same_is_kept(folders):
    made = from_folder(folders / "five", kind="sequence", outputs=2)
    assert "classifier.bias, classifier.weight begin at random" in made.about
    assert built(made, 0).classifier.out_features == 2
    kept = from_folder(folders / "five", kind="sequence", outputs=5)
    assert kept.about == f"weights of {folders / 'five'}"
    stored = transformers.BertForSequenceClassification.from_pretrained(folders / "five")
    assert len(same(built(kept, 0), stored)) == len(list(stored.parameters()))


def test_a_config_alone_is_an_untrained_model_with_the_words_of_the_task(folders):
    made = from_folder(folders / "bert", kind="sequence", outputs=2, words=77, pad=0)
    assert made.about == f"untrained, from the config of {folders / 'bert'} alone"
    model, other = built(made, 0), built(made, 1)
    assert model.get_input_embeddings().num_embeddings == 77
    assert "bert.embeddings.word_embeddings.weight" not in same(model, other)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 16), ("gpt2", 16), ("roberta", 14)])
def test_the_limit_is_the_longest_text_that_the_model_takes(folders, kind, limit):
    made = from_folder(folders / kind, kind="sequence", outputs=2, words=40, pad=1)
    assert made.limit == limit
    model = built(made, 0)
    ids = torch.full((1, limit), 5)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5), attention_mask=torch.ones(1, limit + 1))


def test_a_language_model_is_causal_or_refused(folders):
    made = from_folder(folders / "language", kind="causal", words=40)
    model = built(made, 0).eval()
    assert model(IDS).logits.shape == (1, 4, 40)
    assert model(IDS).past_key_values is None
    with pytest.raises(ValueError, match=r"a BertLMHeadModel of .* sees later tokens .* or set is_decoder to true"):
        from_folder(folders / "bert", kind="causal")


def test_an_image_model_alone_takes_the_images_of_the_task_and_with_weights_only_its_own(folders, tmp_path):
    made = from_folder(folders / "vit", kind="image", outputs=10, shape=(1, 12, 12))
    assert built(made, 0)(torch.zeros(2, 1, 12, 12)).logits.shape == (2, 10)
    save_model(tmp_path, "ViTForImageClassification", image_size=8, patch_size=4)
    assert from_folder(tmp_path, kind="image", outputs=2, shape=(3, 8, 8)).about == f"weights of {tmp_path}"
    with pytest.raises(ValueError, match=r"has image_size 8, and the images of the task 12; choose another"):
        from_folder(tmp_path, kind="image", outputs=2, shape=(3, 12, 12))
    with pytest.raises(ValueError, match=r"has num_channels 3, and the images of the task 1; choose another"):
        from_folder(tmp_path, kind="image", outputs=2, shape=(1, 8, 8))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_part_for_images_of_a_model_of_images_and_texts_takes_those_of_the_task(kind, tmp_path):
    import transformers

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = {"vision_config": small | {"patch_size": 4}, "text_config": small | {"vocab_size": 9}}
    getattr(transformers, f"{kind}Config")(**parts).save_pretrained(tmp_path)
    made = from_folder(tmp_path, kind="image", outputs=10, shape=(1, 8, 8))
    model = built(made, 0)
    assert model(torch.zeros(2, 1, 8, 8)).logits.shape == (2, 10)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has num_channels 1, and the images of the task 3; choose another"):
        from_folder(tmp_path, kind="image", outputs=10, shape=(3, 8, 8))


def test_a_task_of_images_takes_a_model_of_a_folder(folders):
    name = f"hf:{folders / 'vit'}"
    task = load_task("digits", {"model": name, "train_examples": "20"})
    assert task.about.endswith(f"; untrained, from the config of {folders / 'vit'} alone")
    model = task.model(seed=0).double().eval()
    assert type(model).__name__ == "ViTForImageClassification"
    objective = task.objective(model, batch_size=9)
    expected = functional.cross_entropy(model(task.train.inputs.double()).logits, task.train.targets)
    read = Objective(model, task.loss, [(task.train.inputs.double(), task.train.targets)], forward=task.forward)
    assert torch.allclose(read.loss(read.weights), expected, rtol=1e-12)
    assert objective.space.dim == read.space.dim
    with pytest.raises(ValueError, match=f"the model {name} does not take width"):
        load_task("digits", {"model": name, "width": 8})
    with pytest.raises(ValueError, match=r"there is no model 'vitt'; did you mean 'vit'.*hf:FOLDER"):
        load_task("digits", {"model": "vitt"})


def test_the_library_says_nothing_and_is_left_as_it_was(folders, capfd):
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    built(from_folder(folders / "pretrained", kind="sequence", outputs=3), 0)
    assert capfd.readouterr() == ("", "")
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before


def test_what_is_no_model_of_the_kind_is_refused(folders, tmp_path):
    for name, kind, there in (("vit", "sequence", "image classifiers"), ("t5", "causal", "sequence classifiers")):
        sentence = rf"and there are none of the type '{name}', which .*{name} has. Of the .*, there are {there}$"
        with pytest.raises(ValueError, match=sentence):
            from_folder(folders / name, kind=kind, outputs=2)
    with pytest.raises(
        ValueError, match=r"the tokenizer has 41 words, and the model of .* 40; name its own with token"
    ):
        from_folder(folders / "five", kind="sequence", outputs=5, words=41)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))} is not a model for .*save_pretrained"):
        from_folder(tmp_path, kind="sequence", outputs=2)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no config.json in .*; save a model there"):
        from_folder(tmp_path, kind="sequence", outputs=2)


def test_a_type_with_several_image_classifiers_is_the_plain_one(folders):
    model = built(from_folder(folders / "deit", kind="image", outputs=4, shape=(1, 8, 8)), 0)
    assert type(model).__name__ == "DeiTForImageClassification"
    assert model(torch.zeros(2, 1, 8, 8)).logits.shape == (2, 4)


def test_what_has_no_limit_takes_texts_of_any_length(tmp_path):
    transformers.XLNetConfig(d_model=8, n_head=2, n_layer=1, d_inner=8).save_pretrained(tmp_path)
    assert from_folder(tmp_path, kind="sequence", outputs=2, words=40, pad=0).limit is None


def test_weights_of_another_architecture_are_refused(folders, tmp_path):
    save_config(tmp_path, "Roberta")
    shutil.copy(folders / "language" / "model.safetensors", tmp_path)
    with pytest.raises(
        ValueError, match=r"has few of the weights of a RobertaForSequenceClassification: it lacks .* more"
    ):
        from_folder(tmp_path, kind="sequence", outputs=2)
    (tmp_path / "model.safetensors").write_bytes(b"0" * 20)
    with pytest.raises(ValueError, match=r"is not a model for .* \(SafetensorError: "):
        from_folder(tmp_path, kind="sequence", outputs=2)


def test_pickled_weights_are_refused_and_never_read(folders, tmp_path):
    shutil.copy(folders / "bert" / "config.json", tmp_path)
    assert not has_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"weights in pytorch_model.bin, a pickle, .* writes model.safetensors"):
        from_folder(tmp_path, kind="sequence", outputs=2)
    shutil.copy(folders / "five" / "model.safetensors", tmp_path)
    assert from_folder(tmp_path, kind="sequence", outputs=5).about == f"weights of {tmp_path}"


def test_nothing_is_downloaded_unless_asked_for(monkeypatch, folders):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        return str(folders / "five")

    monkeypatch.setattr("transformers.utils.hub.snapshot_download", download)
    with pytest.raises(
        FileNotFoundError, match=r"no folder 'lab/model', .* \(hf download lab/model --local-dir FOLDER\) and"
    ):
        local_folder("hf:lab/model")
    assert not asked
    assert local_folder("hf:lab/model", download=True) == folders / "five"
    assert asked == [("lab/model", ("*.json", "*.txt", "*.model", "*.safetensors"))]
    assert local_folder(f"hf:{folders / 'five'}", download=True) == folders / "five"  # it is here
    assert len(asked) == 1

    def fail(name, allow_patterns):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("transformers.utils.hub.snapshot_download", fail)
    with pytest.raises(ValueError, match=r"'lab/model' cannot be downloaded \(no route to host\); name a folder"):
        local_folder("lab/model", download=True)


@pytest.mark.parametrize("task", ["glue:sst2", "text"])
def test_a_task_of_text_downloads_a_model_where_its_setting_asks_for_it(task, monkeypatch, tmp_path):
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        raise OSError("no route to host")

    monkeypatch.setattr("transformers.utils.hub.snapshot_download", download)
    settings = {"data": str(tmp_path), "model": "hf:lab/model"}
    with pytest.raises(FileNotFoundError, match="there is no folder 'lab/model', and nothing is downloaded unless ask"):
        load_task(task, settings)
    assert not asked
    with pytest.raises(ValueError, match=r"'lab/model' cannot be downloaded \(no route to host\)"):
        load_task(task, settings | {"download": "true"})
    assert asked == ["lab/model"]
