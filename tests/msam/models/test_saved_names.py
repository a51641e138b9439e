"""Files of models of transformers, which have other names in them than the models, are read as the library does."""

from __future__ import annotations

import pytest
import torch
from texts import save_model

from msam import load_foreign
from msam.fitting import NamesDifferError
from msam.foreign import read_foreign

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")


def test_weights_are_taken_from_elsewhere_under_the_names_that_the_library_saves_them(tmp_path):
    model = save_model(tmp_path, "ViTForImageClassification", image_size=8, patch_size=4)
    content = dict(read_foreign(tmp_path))
    renamed = content.keys() - model.state_dict().keys()
    assert renamed  # or there is nothing to test
    torch.save({name: tensor.half() for name, tensor in content.items()}, tmp_path / "half.pt")
    said = f"{len(renamed)} names are those that transformers saves a ViTForImageClassification under; it renames them"
    for file, number in ((tmp_path, 0), (tmp_path / "half.pt", 1)):
        fresh = transformers.ViTForImageClassification(model.config)
        remarks = load_foreign(fresh, file).remarks
        assert (remarks[0], len(remarks)) == (said, 1 + number)  # half precision is said, too
        for name, p in fresh.state_dict().items():
            torch.testing.assert_close(p, model.state_dict()[name], rtol=1e-3, atol=1e-4)
    state = torch.get_rng_state()
    lost = next(name for name in content if name.endswith("dense.weight"))
    for spoil in (lambda c: c.pop(lost), lambda c: c.update(other=torch.ones(2))):
        other = dict(content)
        spoil(other)
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(NamesDifferError, match="is of another architecture than the model"):
            load_foreign(fresh, tmp_path / "other.pt")
    assert torch.equal(state, torch.get_rng_state())


def test_names_that_the_library_renames_are_renamed_in_a_nested_file_too(tmp_path):
    model = save_model(tmp_path, "ViTForImageClassification", image_size=8, patch_size=4)
    content, own = dict(read_foreign(tmp_path)), model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in content.items()}
    zeros = {name: tensor * 0 for name, tensor in content.items()}
    optimizer = {"state": {0: {"step": torch.ones(())}}}
    renames = f"{len(content.keys() - own.keys())} names are those that transformers saves a ViTForImageClassification"
    stripped = f"'module.' is stripped from {len(content)} names"
    file, taken = tmp_path / "nested.pt", "the weights are its entry "
    for nested, key, said in (
        (dict(content, epoch=3), "", ["left out: epoch"]),
        ({"state_dict": content, "epoch": 3}, "", [f"{taken}'state_dict'", "left out: epoch"]),
        ({"optimizer": optimizer, "model": wrapped}, "", [stripped, f"{taken}'model'", "left out: optimizer"]),
        ({"net": {"last": content, "best": zeros}}, "net.last", ["left out: net.best"]),
    ):
        torch.save(nested, file)
        fresh = transformers.ViTForImageClassification(model.config)
        loaded = load_foreign(fresh, file, key=key)
        assert loaded.remarks == (f"{renames} under; it renames them", *said)
        assert all(torch.equal(tensor, own[name]) for name, tensor in fresh.state_dict().items())
    with pytest.raises(
        ValueError, match=r"several entries that could be the weights: net\.last, net\.best\. Choose one"
    ):
        load_foreign(fresh, file)
    with pytest.raises(NamesDifferError, match="is of another architecture than the model"):
        load_foreign(
            save_model(tmp_path, "ViTForImageClassification", image_size=8, patch_size=2), file, key="net.last"
        )
    nested = {"state_dict": content}
    nested["self"] = nested
    torch.save(nested, file)
    with pytest.raises(ValueError, match=r"be the weights: state_dict, self\.state_dict, self\.self\.state_dict"):
        load_foreign(fresh, file)
