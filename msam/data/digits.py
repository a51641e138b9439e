"""The digits that are always there."""

from __future__ import annotations

import torch

from msam.data.examples import Examples


def digits_examples() -> Examples:
    """The 1,797 handwritten digits that come with scikit-learn: ``(1797, 1, 8, 8)`` in [0, 1]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32, device="cpu").div(16).view(-1, 1, 8, 8)
    return Examples(inputs, torch.tensor(labels, dtype=torch.long, device="cpu"))
