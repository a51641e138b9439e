"""Operators whose eigenvalues are known."""

from __future__ import annotations

import numpy as np
import torch
from problems import quadratic, symmetric

from landscape import HessianOperator

SPECTRA = {
    "spread": np.linspace(-1, 2, 40),
    "clustered": np.concatenate([np.linspace(1, 1.001, 20), np.linspace(5, 5.00001, 20)]),
    "geometric": 2.0 ** -np.arange(40),
    "rank_deficient": np.array([4.0, 2.0, 1.0, 0.5] + [0.0] * 36),
    "negative_definite": -np.linspace(0.1, 7, 40),
    "indefinite": np.concatenate([-np.linspace(1, 9, 20), np.linspace(0.5, 4, 20)]),
    "multiple": np.array([3.0] * 4 + [2.0] * 3 + [1.0] * 20 + [-2.5] * 5),
    "zero": np.zeros(12),
}


def operator_of(eigenvalues, *, seed=0):
    return HessianOperator(quadratic(symmetric(torch.as_tensor(eigenvalues).double(), seed=seed)))


def dense(A):
    """An operator whose products are those of a matrix, and cheap."""
    weights = torch.ones(len(A), dtype=A.dtype)
    operator = HessianOperator(quadratic(A, w=weights, slopes=torch.zeros(13, len(A), dtype=A.dtype)))
    operator.apply = lambda V: A @ V
    return operator


SMALLEST = quadratic(torch.eye(1).double())


class Diagonal(HessianOperator):
    """A diagonal matrix whose products cost next to nothing."""

    def __init__(self, eigenvalues):
        self.eigenvalues = torch.as_tensor(np.array(eigenvalues)).double()
        self.objective, self.weights = SMALLEST, torch.zeros(len(eigenvalues)).double()
        self.shape, self.dtype = (len(eigenvalues),) * 2, np.dtype(np.float64)

    def apply(self, V):
        return self.eigenvalues.reshape(-1, *[1] * (V.ndim - 1)) * V

    def manifest(self):
        return {}


def like_one_that_was_trained():
    """Outliers of a network, a bulk that falls off, and thousands of eigenvalues around zero."""
    outliers = [3.638, 3.304, 2.4765, 2.292, 1.935, 1.660, 1.198, 0.8996, 0.7589, 0.613, 0.479]
    bulk = np.concatenate([0.45 * np.exp(-0.06 * np.arange(150)), 1e-4 * np.random.default_rng(0).normal(size=5000)])
    return np.concatenate([outliers, bulk])
