"""Models that are built in."""

from msam.models.norms import group_norm
from msam.models.patches import PatchNet
from msam.models.registry import IMAGE_MODELS, ImageModel, NormName, PoolName, image_model, origin_of
from msam.models.resnet import LARGE_IMAGES, SMALL_IMAGES, ResNet, Stem, resnet18, resnet50, resnet_of_three_stages
from msam.models.small import cnn, mlp
from msam.models.vit import ClassToken, MeanOfPatches, Pool, ViT
from msam.models.wide_resnet import WideResNet

__all__ = [
    "mlp",
    "cnn",
    "PatchNet",
    "ResNet",
    "resnet_of_three_stages",
    "resnet18",
    "resnet50",
    "Stem",
    "SMALL_IMAGES",
    "LARGE_IMAGES",
    "WideResNet",
    "ViT",
    "Pool",
    "ClassToken",
    "MeanOfPatches",
    "group_norm",
    "image_model",
    "origin_of",
    "ImageModel",
    "NormName",
    "PoolName",
    "IMAGE_MODELS",
]
