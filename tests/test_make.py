"""What the Makefile promises: a second time nothing is done again, and the demo stays small."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("demo", "test", "lint", "check", "bench")
GIB = 2**30

# In the place of the installed command: the recipes are those of the Makefile, with less to train and to measure.
SHORTENED = """#!{python}
import sys
sys.path.insert(0, {root!r})
import cli
for long, short in (("--epochs 60", "--epochs 1"), ("--seeds 2", "--seeds 1"), ("1,2,4,8,16", "1,16")):
    line = "\\0".join(sys.argv)
    sys.argv = line.replace(long.replace(" ", "\\0"), short.replace(" ", "\\0")).split("\\0")
if sys.argv[1] == "compare":
    sys.argv += "-k 1 --probes 2 --steps 3 --points 3 --plane-points 2".split()
cli.main()
"""

# Runs make, and tells the most memory that any process it started has held.
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(["make", "demo"], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"status": done.returncode, "out": done.stdout, "errors": done.stderr, "peak": peak}))
"""


@pytest.fixture
def checkout(tmp_path):
    """The files that make looks at, and an environment that is newer than these."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def make(folder: Path, *words: str):
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, check=False)


def test_an_environment_that_is_ready_is_not_made_again(checkout):
    assert make(checkout, "-q", ".venv/.ready").returncode == 0
    for target in TARGETS:
        planned = make(checkout, "-n", target)
        assert planned.returncode == 0, planned.stderr
        assert "pip" not in planned.stdout, target


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_an_environment_that_is_stale_is_made_again(name, checkout):
    stamp = (checkout / ".venv" / ".ready").stat().st_mtime
    os.utime(checkout / name, (stamp + 10,) * 2)
    assert make(checkout, "-q", ".venv/.ready").returncode == 1
    for target in TARGETS:
        assert make(checkout, "-n", target).stdout.count("pip install") >= 1, target


def demo(folder: Path):
    """Run the demo, shortened; what it printed, and the memory it took."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=folder, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["status"] == 0, result["errors"]
    return result


def test_the_demo_stays_below_two_gib_and_trains_and_measures_nothing_twice(checkout):
    command = checkout / ".venv" / "bin" / "msam"
    command.write_text(SHORTENED.format(python=sys.executable, root=str(ROOT)))
    command.chmod(0o755)
    first = demo(checkout)
    assert first["peak"] < 2 * GIB
    assert first["errors"].count("seed 0") == 3  # SGD, SAM and mSAM
    assert (checkout / "runs" / "demo" / "report.html").is_file()
    kept = [*checkout.rglob("*.safetensors"), *checkout.rglob("results/*.npz"), *checkout.rglob("state.pt")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) == 3 * (1 + 6 + 1)
    second = demo(checkout)
    assert second["errors"] == ""  # each training and each measurement is named there
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert second["out"].splitlines()[-8:] == first["out"].splitlines()[-8:]
