"""The models for images, by name and with settings that a command line can give."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from msam.models.huggingface import PREFIX, HuggingFace, from_folder
from msam.models.norms import group_norm
from msam.models.resnet import LARGE_IMAGES, SMALL_IMAGES, Norm, resnet18, resnet50, resnet_of_three_stages
from msam.models.small import cnn, mlp
from msam.models.vit import ClassToken, MeanOfPatches, Pool, ViT
from msam.models.wide_resnet import WideResNet

ImageModel = Literal[
    "mlp", "cnn", "cnn-bn", "cnn-gn", "resnet20", "resnet32", "resnet56", "resnet18", "resnet50", "wrn-28-10", "vit"
]
NormName = Literal["batch", "group"]
PoolName = Literal["class", "mean"]
IMAGE_MODELS: tuple[str, ...] = typing.get_args(ImageModel)
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": group_norm}
POOLS: dict[str, Pool] = {"class": ClassToken(), "mean": MeanOfPatches()}
MODEL_SETTINGS = ("norm", "width", "depth", "patch", "hidden", "dropout", "pool")
_RESIDUAL = {"norm": "batch", "width": 16}
_OWN: dict[str, dict[str, Any]] = {  # what each model takes, and what it is otherwise
    "mlp": {"hidden": 128},
    "cnn": {"norm": "batch", "width": 16},
    "cnn-bn": {"width": 16},
    "cnn-gn": {"width": 16},
    "resnet20": _RESIDUAL,
    "resnet32": _RESIDUAL,
    "resnet56": _RESIDUAL,
    "resnet18": {"norm": "batch", "width": 64},
    "resnet50": {"norm": "batch", "width": 64},
    "wrn-28-10": {"norm": "batch", "width": 10, "depth": 28, "dropout": 0.0},
    "vit": {"width": 128, "depth": 6, "patch": None, "dropout": 0.0, "pool": "class"},  # patch: by the images
}
_FROM_BEFORE = ("mlp", "cnn-bn", "cnn-gn")  # older configs have hidden and width, both, for each of these
_HEADS = 4
_LARGE = 128  # pixels, from which on a stem of 7x7 is taken


def image_model(
    name: str,
    *,
    channels: int,
    size: int,
    classes: int,
    norm: str | None = None,
    width: int | None = None,
    depth: int | None = None,
    patch: int | None = None,
    hidden: int | None = None,
    dropout: float | None = None,
    pool: str | None = None,
) -> Callable[[], nn.Module]:
    """What builds a model for images ``(N, channels, size, size)``; settings that are None are the model's own.

    Args:
        name: one of ``IMAGE_MODELS``, or ``hf:FOLDER``, a Hugging Face image classifier, which takes no settings.
        channels: of the images.
        size: their side in pixels; from 128 on, ResNet-18 and -50 begin with a 7x7 convolution and a pool, else 3x3.
        classes: outputs.
        norm: normalisation of the convolutional nets, ``"batch"`` or ``"group"``.
        width: channels of the first stage, a multiple of four; of wrn-28-10 the factor of widening; of vit the width
            of a token.
        depth: layers of wrn-28-10, 6n + 4, or blocks of vit.
        patch: side of a patch of vit in pixels; its own is the largest of 16, 8, 4 and 2 with seven or more to a side.
        hidden: units of mlp.
        dropout: of wrn-28-10 or vit, from 0 to below 1.
        pool: what goes to the head of vit, a token of its own, ``"class"``, or the ``"mean"`` of the patches.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no such model, it does not take a setting or the images, or a value is out of range.

    >>> build = image_model("resnet20", channels=3, size=32, classes=10, norm="group")
    >>> sum(parameter.numel() for parameter in build().parameters())
    272474
    """
    given = (norm, width, depth, patch, hidden, dropout, pool)
    chosen = settled({"model": name, **dict(zip(MODEL_SETTINGS, given, strict=True))})
    if name.startswith(PREFIX):
        return from_folder(name, kind="image", outputs=classes, shape=(channels, size, size))
    _require_in_range(name, chosen)
    shape: dict[str, Any] = {"channels": channels, "classes": classes}
    wide, deep = chosen["width"], chosen["depth"]
    kind = {"cnn-bn": "batch", "cnn-gn": "group"}.get(name, chosen["norm"])
    of_norm = NORMS.get(kind, nn.BatchNorm2d)
    stem = LARGE_IMAGES if size >= _LARGE else SMALL_IMAGES
    if name == "mlp":
        return lambda: mlp(inputs=channels * size**2, hidden=chosen["hidden"], classes=classes)
    if name.startswith("cnn"):
        return lambda: cnn(width=wide, norm=of_norm, **shape)
    if name == "wrn-28-10":
        dropped = chosen["dropout"]
        return lambda: WideResNet(depth=deep, widen_factor=wide, dropout=dropped, norm=of_norm, **shape)
    if name == "vit":
        side = chosen["patch"] or _patch_for(size)
        if size % side:
            raise ValueError(f"patch must divide the side of the images, {size} pixels; got {side}")
        rest = {"dropout": chosen["dropout"], "pool": POOLS[chosen["pool"]]}
        return lambda: ViT(size=size, patch=side, depth=deep, width=wide, heads=_HEADS, **rest, **shape)
    if name in ("resnet18", "resnet50"):
        build = resnet18 if name == "resnet18" else resnet50
        return lambda: build(width=wide, norm=of_norm, stem=stem, **shape)
    return lambda: resnet_of_three_stages(int(name.removeprefix("resnet")), width=wide, norm=of_norm, **shape)


def origin_of(build: Callable[[], nn.Module]) -> list[str]:
    """What is to be said of where a model comes from: nothing of those that are built in."""
    return [build.about] if isinstance(build, HuggingFace) else []


def settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a task, with those that its ``model`` takes made the model's own where they are None.

    Raises:
        ValueError: if there is no such model, or it does not take a setting that is not None.

    >>> settled({"model": "cnn", "width": None, "hidden": None, "label_noise": 0.1})
    {'model': 'cnn', 'width': 16, 'hidden': None, 'label_noise': 0.1}
    """
    name = settings["model"]
    if name not in _OWN and not name.startswith(PREFIX):
        raise ValueError(f"there is no model {name!r}; there are: {', '.join(IMAGE_MODELS)}, hf:FOLDER")
    own, found = _OWN.get(name, {}), dict(settings)
    if name in _FROM_BEFORE and found.get("hidden") is not None and found.get("width") is not None:
        found["width" if name == "mlp" else "hidden"] = None
    for key in MODEL_SETTINGS:
        if key in found and found[key] is None:
            found[key] = own.get(key)
        elif key in found and key not in own:
            taken = ", ".join(own) or "none of these settings"
            raise ValueError(f"the model {name} does not take {key} (got {found[key]!r}); it takes {taken}")
    return found


def _require_in_range(name: str, chosen: Mapping[str, Any]) -> None:
    for key in ("width", "depth", "patch", "hidden"):
        if chosen[key] is not None and chosen[key] < 1:
            raise ValueError(f"{key} must be positive; got {chosen[key]}")
    if name != "wrn-28-10" and chosen["width"] is not None and chosen["width"] % 4:
        raise ValueError(f"width must be a positive multiple of 4; got {chosen['width']}")
    for key, options in (("norm", NORMS), ("pool", POOLS)):
        if chosen[key] is not None and chosen[key] not in options:
            raise ValueError(f"there is no {key} {chosen[key]!r}; there are: {', '.join(options)}")
    if chosen["dropout"] is not None and not 0 <= chosen["dropout"] < 1:
        raise ValueError(f"dropout must be from 0 to below 1; got {chosen['dropout']}")
    if name == "wrn-28-10" and (chosen["depth"] < 10 or (chosen["depth"] - 4) % 6):
        raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, ...); got {chosen['depth']}")


def _patch_for(size: int) -> int:
    return next((side for side in (16, 8, 4) if size % side == 0 and size // side >= 7), 2)
