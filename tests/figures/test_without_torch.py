"""Pictures are drawn from saved results alone: on a machine without torch, too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("there is no torch here")
sys.meta_path.insert(0, NoTorch())
"""


def python(code: str, *arguments: str) -> str:
    """What a fresh process prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_figures_loads_no_torch():
    code = "import sys, figures, figures.interactive, figures.report, figures.terminal; print('torch' in sys.modules)"
    assert python(code).strip() == "False"


def test_a_saved_result_of_every_kind_is_read_and_drawn_where_torch_cannot_be_imported(make, tmp_path):
    paths = []
    for kind in ("eigenvalues", "trace", "density", "sharpness", "line", "plane", "groups"):
        for label, result in make(kind, ["a"]).items():
            paths.append(str(result.save(tmp_path / f"{kind}-{label}.npz")))
    code = """
from pathlib import Path
from figures import draw, save
from landscape.results import Result
import analyses.results
for path in sys.argv[1:]:
    save(draw({"a": Result.load(path)}), Path(path).with_suffix(".png"))
"""
    python(NO_TORCH + code, *paths)
    assert len(list(tmp_path.glob("*.png"))) == len(paths)


def test_torch_is_really_blocked_there():
    python(NO_TORCH + "try:\n    import torch\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit(1)")


@pytest.mark.parametrize("module", ["figures", "analyses.results", "landscape.answers"])
def test_what_pictures_need_can_be_imported_where_torch_cannot(module):
    python(f"{NO_TORCH}import {module}")
