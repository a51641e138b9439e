"""Programs under torchrun, as the tests start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launch(number: int, program: Path, *arguments: object, folder: Path | None = None):
    """Run a program on so many processes of this machine, one thread each, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*command, str(program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment, cwd=folder)
