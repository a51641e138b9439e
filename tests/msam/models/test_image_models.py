"""Models for images by name: how many weights they have, and which settings they take."""

from __future__ import annotations

import re

import pytest
import torch
from papers import text
from torch import nn

from msam import TrainConfig
from msam.models import IMAGE_MODELS, ClassToken, MeanOfPatches, image_model
from msam.models.registry import MODEL_SETTINGS, settled

COUNTS = {  # name, channels, pixels, classes, settings -> weights
    ("mlp", 3, 32, 10): 394_634,
    ("mlp", 1, 8, 10): 9_610,
    ("cnn", 3, 32, 10): 6_426,
    ("resnet20", 3, 32, 10): 272_474,  # published: 0.27 million
    ("resnet32", 3, 32, 10): 466_906,  # 0.46
    ("resnet56", 3, 32, 10): 855_770,  # 0.85
    ("resnet18", 3, 32, 10): 11_173_962,
    ("resnet18", 3, 224, 1000): 11_689_512,  # torchvision's
    ("resnet50", 3, 32, 10): 23_520_842,
    ("resnet50", 3, 224, 1000): 25_557_032,  # torchvision's
    ("wrn-28-10", 3, 32, 10): 36_479_194,  # published: 36.5 million
    ("vit", 3, 32, 10): 1_205_898,
    ("vit", 3, 224, 1000): 1_442_664,
}


@pytest.fixture(autouse=True)
def _no_numbers(monkeypatch):
    """Nothing is drawn for weights that have no numbers, which torch would load seconds' worth of modules for."""
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda weight, **_: weight)


def built(name, *, channels=3, size=32, classes=10, **settings):
    """A model without numbers in it; those of vit are few, and scaled, for which torch would load much."""
    with torch.device("cpu" if name == "vit" else "meta"):
        return image_model(name, channels=channels, size=size, classes=classes, **settings)()


def test_the_table_in_the_papers_has_every_model_with_its_settings_and_its_weights():
    lines = [line for line in text("docs/models.md").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {row[0].strip("`"): row[1:] for row in cells}
    assert set(rows) | {"cnn-bn", "cnn-gn"} == set(IMAGE_MODELS)
    for name, (settings, small, large) in rows.items():
        whole = settled(dict.fromkeys(MODEL_SETTINGS) | {"model": name})
        own = {key: str(whole[key]).removesuffix(".0") for key in MODEL_SETTINGS if whole[key] is not None}
        stated = dict(re.findall(r"`(\w+)` \(([^)]*)\)", settings))
        assert stated == own | ({"patch": "by the size"} if name == "vit" else {})
        assert small == f"{COUNTS[name, 3, 32, 10]:,}"
        assert large == (f"{COUNTS[name, 3, 224, 1000]:,}" if (name, 3, 224, 1000) in COUNTS else "")


@pytest.mark.parametrize(
    ("case", "norm"),
    [(case, norm) for case in COUNTS for norm in (None, "group") if norm is None or case[0] not in ("mlp", "vit")],
    ids=str,
)
def test_a_model_has_as_many_weights_as_were_published_with_either_norm(case, norm):
    name, channels, size, classes = case
    model = built(name, channels=channels, size=size, classes=classes, norm=norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[case]
    kinds = {type(layer) for layer in model.modules()} & {nn.BatchNorm2d, nn.GroupNorm}
    assert kinds == (set() if name in ("mlp", "vit") else {nn.GroupNorm if norm else nn.BatchNorm2d})


NARROW = {"mlp": {"hidden": 4}, "wrn-28-10": {"depth": 10, "width": 1}, "vit": {"depth": 1, "width": 4}}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_model_takes_images_of_eight_pixels_and_one_channel(name):
    settings = NARROW.get(name, {"width": 4})
    model = image_model(name, channels=1, size=8, classes=3, **settings)().eval()
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def sides(name, *, size):
    """The sides of what goes through a residual network: after the stem, and after each stage."""
    model = image_model(name, channels=3, size=size, classes=10, width=4)().eval()
    x = model.pool(model.bn1(model.conv1(torch.rand(1, 3, size, size))))
    found = [x.shape[-1]]
    for stage in model.stages:
        x = model.get_submodule(stage)(x)
        found.append(x.shape[-1])
    return found


def test_large_images_go_through_a_stem_that_makes_them_a_quarter_as_wide():
    assert sides("resnet50", size=224) == [56, 56, 28, 14, 7]
    assert sides("resnet18", size=128) == [32, 32, 16, 8, 4]
    assert sides("resnet18", size=120) == [120, 120, 60, 30, 15]
    assert sides("resnet20", size=32) == [32, 32, 16, 8]


@pytest.mark.parametrize(
    ("size", "patch"), [(8, 2), (16, 2), (28, 4), (32, 4), (36, 4), (64, 8), (112, 16), (224, 16), (30, 2)]
)
def test_a_patch_is_the_largest_of_which_seven_go_along_a_side(size, patch):
    assert built("vit", size=size).patches.kernel_size == (patch, patch)


def test_settings_reach_the_model():
    assert built("mlp", hidden=7)[1].out_features == 7
    assert built("resnet20", width=8).fc.in_features == 32
    wide = built("wrn-28-10", depth=10, width=2, dropout=0.3)
    assert (len(wide.blocks), wide.fc.in_features, wide.blocks[0].dropout.p) == (3, 128, 0.3)
    vit = built("vit", depth=3, width=16, patch=8, dropout=0.2)
    dropped = [layer.p for layer in vit.modules() if isinstance(layer, nn.Dropout)]
    assert (len(vit.blocks), vit.places.shape, dropped) == (3, (1, 17, 16), [0.2] * 7)
    assert {type(built("vit", pool=pool).pool) for pool in (None, "class", "mean")} == {ClassToken, MeanOfPatches}
    assert isinstance(built("vit").pool, ClassToken)
    assert isinstance(built("cnn-gn")[1], nn.GroupNorm)
    assert isinstance(built("cnn-bn")[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("resnet", {}, "there is no model 'resnet'; there are: mlp, cnn, cnn-bn, .*vit"),
        ("mlp", {"norm": "batch"}, r"the model mlp does not take norm \(got 'batch'\); it takes hidden"),
        ("vit", {"norm": "group"}, "vit does not take norm .*; it takes width, depth, patch, dropout, pool"),
        ("resnet20", {"depth": 3}, "resnet20 does not take depth .*; it takes norm, width"),
        ("resnet20", {"hidden": 3, "width": 8}, "resnet20 does not take hidden"),
        ("resnet20", {"norm": "layer"}, "there is no norm 'layer'; there are: batch, group"),
        ("resnet20", {"width": 6}, "width must be a positive multiple of 4; got 6"),
        ("resnet20", {"width": 0}, "width must be positive; got 0"),
        ("vit", {"patch": 5}, "patch must divide the side of the images, 32 pixels; got 5"),
        ("vit", {"depth": 0}, "depth must be positive; got 0"),
        ("vit", {"dropout": 1.0}, "dropout must be from 0 to below 1; got 1.0"),
        ("vit", {"pool": "max"}, "there is no pool 'max'; there are: class, mean"),
        ("resnet20", {"pool": "mean"}, r"the model resnet20 does not take pool \(got 'mean'\); it takes norm, width"),
        ("wrn-28-10", {"depth": 12}, r"depth must be 6n \+ 4 .*; got 12"),
    ],
)
def test_what_a_model_does_not_take_is_refused_with_what_it_does(name, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        image_model(name, channels=3, size=32, classes=10, **settings)


@pytest.mark.parametrize("name", ["mlp", "cnn-bn", "cnn-gn"])
def test_settings_of_an_older_config_have_a_width_for_every_model_and_mean_what_they_did(name):
    whole = dict.fromkeys(("norm", "depth", "patch", "dropout", "hidden", "width")) | {"model": name}
    assert settled(whole | {"hidden": 128, "width": 16}) == settled(whole)
    assert settled(whole)["hidden"] == (128 if name == "mlp" else None)
    assert settled(whole | {"hidden": 8, "width": 4})["width"] == (None if name == "mlp" else 4)


def test_a_config_from_before_tokens_could_be_pooled_is_of_a_class_token():
    old = {"model": "vit", "norm": None, "width": 8, "depth": 1, "patch": 4, "hidden": None, "dropout": 0.0}
    config = TrainConfig(settings=old)
    assert config.completed().settings["pool"] == "class"
    assert config.completed() == TrainConfig(settings=old | {"pool": "class"}).completed()
    assert config.identity != TrainConfig(settings=old | {"pool": "mean"}).identity
