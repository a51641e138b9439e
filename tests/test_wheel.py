"""The wheel contains what it should, and works where nothing else of the project is."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_contains_the_rooms_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    expected = {"cli.py"}
    for room in ("landscape", "msam", "analyses", "figures"):
        here = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        expected |= {str(path.relative_to(ROOT)) for path in here}
        assert f"{room}/py.typed" in inside
    assert inside == expected
    assert "analyses/report.html.jinja" in inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_trains_measures_and_compares(wheel, tmp_path):
    """In an environment with this wheel and the declared packages, away from the checkout."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", "--no-index", wheel]
    subprocess.run(pip, check=True)
    site = next(home.glob("lib/*/site-packages"))
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "packages.pth").write_text(f"{packages}\n")  # a path, so the checkout's own .pth in it is not followed
    where = "import cli, landscape, msam, sys; print(cli.__file__, landscape.__file__, msam.__file__)"
    found = subprocess.run([python, "-I", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert all(path.startswith(str(home)) for path in found.split())
    train = "train --set hidden=8 --set train_examples=60 --batch-size 25 --epochs 1 --out run"
    compare = "compare run --probes 2 --steps 3 --points 3 --plane-points 2 --out report.html"
    for command in (train, compare):
        subprocess.run([home / "bin" / "msam", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "report.html").stat().st_size > 20_000
