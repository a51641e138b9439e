"""What every test shares: one thread, so that sums are added in one order, a known global random state, a device."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="hold this device's results against the CPU's: cuda, cuda:1, mps")


def pytest_configure(config):
    from msam.training import choose_device

    try:
        choose_device(config.getoption("--device"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") == "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, named with --device"))


@pytest.fixture(scope="session")
def device(pytestconfig) -> str:
    """The device whose results are held against the CPU's; the CPU itself where none was named."""
    return pytestconfig.getoption("--device")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _known_random_state():
    torch.manual_seed(0)
