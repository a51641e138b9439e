"""What learns or draws at random does the same on any number of processes, also where one has no micro-batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.msam.distributed_perturbations import STEPPED, trained

PROGRAM = Path(__file__).with_name("distributed_perturbations.py")


def test_three_processes_come_to_the_same_as_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "OMP_NUM_THREADS": "1"}
    words = [*command, str(PROGRAM), str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(3)]
    for name in STEPPED:
        for m in (2, 5):
            alone = trained(name, None, num_microbatches=m)
            for rank in ranks:
                assert rank[f"{name} {m}"].keys() == alone.keys()
                for key, value in alone.items():
                    assert torch.allclose(rank[f"{name} {m}"][key], value, rtol=1e-10, atol=1e-13), (name, m, key)
