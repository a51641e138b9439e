"""Built-in networks, small: what they compute, that they learn by mSAM, and their curvature against a dense Hessian."""

from __future__ import annotations

import networks
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from landscape import GradientAscent, HessianOperator, Objective, top_eigenvalues
from msam import Layerwise, Vectorised, mSAM
from msam.models import MeanOfPatches, ResNet, ViT, WideResNet, group_norm, resnet50, resnet_of_three_stages
from msam.models.resnet import SMALL_IMAGES, BasicBlock, Bottleneck
from msam.models.wide_resnet import WideBlock

SHAPE = {"channels": 1, "classes": 3}
NETS = {  # builds a network, and a pattern of few of its weights
    "resnet, batch norm": (lambda: resnet_of_three_stages(8, width=4, **SHAPE), "conv1.*"),
    "resnet, group norm": (lambda: resnet_of_three_stages(8, width=4, norm=group_norm, **SHAPE), "conv1.*"),
    "resnet of bottlenecks": (
        lambda: ResNet(Bottleneck, blocks=[1, 1], width=4, stem=SMALL_IMAGES, norm=group_norm, **SHAPE),
        "conv1.*",
    ),
    "wide resnet, batch norm": (lambda: WideResNet(depth=10, widen_factor=1, **SHAPE), "blocks.0.bn*"),
    "wide resnet, group norm": (lambda: WideResNet(depth=10, widen_factor=1, norm=group_norm, **SHAPE), "blocks.0.bn*"),
    "vit": (lambda: ViT(size=8, patch=4, depth=1, width=4, heads=2, **SHAPE), "*attention*"),
    "vit, mean": (
        lambda: ViT(size=8, patch=4, depth=1, width=4, heads=2, pool=MeanOfPatches(), **SHAPE),
        "*attention*",
    ),
}


def net(name):
    """A network in double precision with running statistics of its own, and eight images with labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 8, 8, generator=generator, dtype=torch.float64)
    model = NETS[name][0]().double()
    model.train()(images)  # statistics that are not those of the start
    return model.eval(), (images, torch.arange(8) % 3)


@pytest.mark.parametrize("name", NETS)
def test_a_network_learns_by_ragged_micro_batches(name):
    model, batch = net(name)
    sgd = torch.optim.SGD(model.train().parameters(), lr=0.1, momentum=0.9)
    optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=3, module=model)  # 3, 3 and 2 images
    losses = [float(optimizer.step(networks.closure_of(model), batch)) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in NETS if name != "wide resnet, group norm"])
def test_the_top_eigenvalue_is_that_of_the_dense_hessian(name):
    model, (images, labels) = net(name)
    data = [(images[:3], labels[:3]), (images[3:7], labels[3:7]), (images[7:], labels[7:])]
    objective = Objective(model, functional.cross_entropy, data, parameters=NETS[name][1])
    space = objective.space

    def loss(w):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            logits = functional_call(model, space.unflatten(w), (images,))
        return functional.cross_entropy(logits, labels)

    dense = torch.autograd.functional.hessian(loss, objective.weights)
    found = top_eigenvalues(HessianOperator(objective), k=1, tol=1e-9)
    expected = torch.linalg.eigvalsh(dense)
    top = expected[expected.abs().argmax()] if found.eigenvalues[0] < 0 else expected[-1]
    assert found.converged.all()
    assert found.eigenvalues[0] == pytest.approx(top.item(), rel=1e-8)


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
@pytest.mark.parametrize("name", NETS)
def test_a_network_is_taken_with_all_micro_batches_at_once(name, execution):
    model, batch = net(name)
    step = networks.step_of(model, batch, 3, GradientAscent(rho=0.1))
    networks.require_same(step, execution(), tolerance=1e-11)


def test_residual_blocks_are_the_identity_where_their_convolutions_are_zero():
    x = torch.rand(2, 8, 6, 6)
    for block in (
        BasicBlock(8, 8, 1, nn.BatchNorm2d),
        Bottleneck(8, 2, 1, nn.BatchNorm2d),
        WideBlock(8, 8, 1, nn.BatchNorm2d, 0.5),
    ):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
        assert torch.equal(block.train()(x), x)


def test_where_a_wide_block_widens_its_shortcut_sees_what_its_first_convolution_sees():
    block = WideBlock(4, 8, 2, lambda channels: nn.Identity(channels), 0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    expected = torch.einsum("oc,nchw->nohw", block.shortcut.weight[..., 0, 0], x.relu()[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), expected)


def test_dropout_of_networks_acts_in_training_only():
    for model in (
        WideResNet(depth=10, widen_factor=1, dropout=0.5, **SHAPE),
        ViT(size=8, patch=4, depth=1, width=4, heads=2, dropout=0.5, **SHAPE),
    ):
        x = torch.randn(4, 1, 8, 8)
        assert torch.equal(model.eval()(x), model(x))
        assert not torch.equal(model.train()(x), model(x))


def test_convolutions_begin_with_the_variance_of_he():
    model = resnet_of_three_stages(14, channels=3, classes=10)
    weight = model.layer3[1].conv1.weight
    assert weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)


def test_a_vision_transformer_begins_with_the_variances_of_glorot_and_one_over_the_pixels():
    model = ViT(size=32, patch=8, depth=1, width=64, heads=4, channels=3, classes=100)
    for part in model.blocks[0].attention.qkv.weight.chunk(3):
        assert part.var().item() == pytest.approx(2 / (64 + 64), rel=0.1)
    assert model.blocks[0].mlp[0].weight.var().item() == pytest.approx(2 / (64 + 256), rel=0.1)
    assert model.patches.weight.var().item() == pytest.approx(1 / (3 * 64), rel=0.1)
    assert not any(layer.bias.any() for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("depth", [0, 2, 9, 18])
def test_a_depth_that_does_not_make_whole_blocks_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2 .*; got {depth}"):
        resnet_of_three_stages(depth, **SHAPE)
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 4 .*; got {depth}"):
        WideResNet(depth=depth, **SHAPE)


def test_the_mean_of_the_patches_goes_through_the_last_norm_to_the_head():
    model, (images, _) = net("vit, mean")
    assert "class_token" not in dict(model.named_parameters())
    tokens = torch.stack([functional.conv2d(images[:, :, y : y + 4, x : x + 4], *model.patches.parameters()).flatten(1)
                          for y in (0, 4) for x in (0, 4)], dim=1)  # fmt: skip
    after = model.blocks(tokens + model.places)
    mean = (after[:, 0] + after[:, 1] + after[:, 2] + after[:, 3]) / 4
    expected = model.head(functional.layer_norm(mean, (4,), model.norm.weight, model.norm.bias))
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


def test_patches_must_fill_the_image_and_heads_the_width():
    with pytest.raises(ValueError, match="patch must divide the side of the images, 8 pixels; got 3"):
        ViT(size=8, patch=3, depth=1, width=4, heads=2, **SHAPE)
    with pytest.raises(ValueError, match="width must be a multiple of the 3 heads; got 4"):
        ViT(size=8, patch=4, depth=1, width=4, heads=3, **SHAPE)


def test_the_names_of_weights_are_those_of_torchvision(monkeypatch):
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda weight, **_: weight)  # there are no numbers to draw

    def of_norm(name):
        return {f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    expected = {"conv1.weight", "fc.weight", "fc.bias"} | of_norm("bn1")
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            for number in (1, 2, 3):
                expected |= {f"{name}.conv{number}.weight"} | of_norm(f"{name}.bn{number}")
        expected |= {f"layer{stage}.0.downsample.0.weight"} | of_norm(f"layer{stage}.0.downsample.1")
    with torch.device("meta"):
        state = resnet50(channels=3, classes=1000).state_dict()
    assert set(state) == expected
    assert state["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["layer2.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
