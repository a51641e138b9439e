"""Data sets as tensors: loaded, split and, on request, spoiled."""

from msam.data.augmentation import Augmentation, Composed, Crop, Cutout, Flip, augmentation_of, draws_of
from msam.data.digits import digits_examples
from msam.data.examples import Examples, shuffled
from msam.data.kernel import KernelRegression, kernel_regression
from msam.data.mixup import MixUp
from msam.data.patches import SignalAndNoise, signal_and_noise
from msam.data.splits import at_random, stratified, with_label_noise

__all__ = [
    "Examples",
    "shuffled",
    "digits_examples",
    "stratified",
    "at_random",
    "with_label_noise",
    "SignalAndNoise",
    "signal_and_noise",
    "KernelRegression",
    "kernel_regression",
    "Augmentation",
    "Crop",
    "Flip",
    "Cutout",
    "MixUp",
    "Composed",
    "augmentation_of",
    "draws_of",
]
