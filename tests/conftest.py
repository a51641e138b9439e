"""What every test shares: one thread, so that sums are added in one order, and a known global random state."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _known_random_state():
    torch.manual_seed(0)
