"""Residual networks and vision transformers beside those of the transformers library, with the same weights."""

from __future__ import annotations

import pytest
import torch

from msam.models import LARGE_IMAGES, ResNet, ViT
from msam.models.resnet import BasicBlock, Bottleneck

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

HEAD = {"fc.weight": "classifier.1.weight", "fc.bias": "classifier.1.bias"}


def theirs_for(name):
    """The name in the other library of an entry of a residual network's state."""
    if name in HEAD:
        return HEAD[name]
    *path, layer, entry = name.split(".")
    if not path:
        kind = "convolution" if layer == "conv1" else "normalization"
        return f"resnet.embedder.embedder.{kind}.{entry}"
    stage, block, *inner = path
    where = f"resnet.encoder.stages.{int(stage.removeprefix('layer')) - 1}.layers.{block}"
    if inner == ["downsample"]:
        return f"{where}.shortcut.{['convolution', 'normalization'][int(layer)]}.{entry}"
    kind = "convolution" if layer.startswith("conv") else "normalization"
    return f"{where}.layer.{int(layer[-1]) - 1}.{kind}.{entry}"


@pytest.mark.parametrize(("block", "name"), [(BasicBlock, "basic"), (Bottleneck, "bottleneck")])
def test_a_residual_network_computes_what_that_of_transformers_does(block, name):
    widths = [4 * block.expansion, 8 * block.expansion]
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=widths, depths=[2, 1], layer_type=name, num_labels=5
    )
    theirs = transformers.ResNetForImageClassification(config).double()
    shape = {"channels": 3, "classes": 5}
    ours = ResNet(block, blocks=[2, 1], width=4, stem=LARGE_IMAGES, norm=torch.nn.BatchNorm2d, **shape).double()
    images = torch.randn(3, 3, 37, 37, dtype=torch.float64)
    theirs.train()(images)  # other running statistics than those of the start
    state = theirs.state_dict()
    assert {theirs_for(entry) for entry in ours.state_dict()} == set(state)
    ours.load_state_dict({entry: state[theirs_for(entry)] for entry in ours.state_dict()})
    for mode in (False, True):
        expected = theirs.train(mode)(images).logits
        torch.testing.assert_close(ours.train(mode)(images), expected, rtol=1e-10, atol=1e-12)


def test_a_vision_transformer_computes_what_that_of_transformers_does():
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=3,
        layer_norm_eps=1e-5,
        num_labels=5,
    )
    theirs = transformers.ViTForImageClassification(config).double().eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = ViT(channels=3, size=8, classes=5, patch=4, depth=2, width=8, heads=2).double().eval()
    state = dict(theirs.state_dict())

    def take(name):
        return state.pop(name)

    start = "vit.embeddings"
    found = {"class_token": take(f"{start}.cls_token"), "places": take(f"{start}.position_embeddings")}
    for entry in ("weight", "bias"):
        found[f"patches.{entry}"] = take(f"{start}.patch_embeddings.projection.{entry}")
        found[f"norm.{entry}"], found[f"head.{entry}"] = take(f"vit.layernorm.{entry}"), take(f"classifier.{entry}")
        for number in range(2):
            layer, block = f"vit.layers.{number}", f"blocks.{number}"
            parts = [take(f"{layer}.attention.{part}_proj.{entry}") for part in "qkv"]
            found[f"{block}.attention.qkv.{entry}"] = torch.cat(parts)
            found[f"{block}.attention.out.{entry}"] = take(f"{layer}.attention.o_proj.{entry}")
            found[f"{block}.norm1.{entry}"] = take(f"{layer}.layernorm_before.{entry}")
            found[f"{block}.norm2.{entry}"] = take(f"{layer}.layernorm_after.{entry}")
            found[f"{block}.mlp.0.{entry}"] = take(f"{layer}.mlp.fc1.{entry}")
            found[f"{block}.mlp.3.{entry}"] = take(f"{layer}.mlp.fc2.{entry}")
    assert not state
    ours.load_state_dict(found)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images).logits, rtol=1e-10, atol=1e-12)
