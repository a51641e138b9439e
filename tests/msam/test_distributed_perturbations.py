"""What learns or draws at random does the same on any number of processes, also where one has no micro-batch."""

from __future__ import annotations

from pathlib import Path

import torch
from launching import launch

from tests.msam.distributed_perturbations import STEPPED, trained

PROGRAM = Path(__file__).with_name("distributed_perturbations.py")


def test_three_processes_come_to_the_same_as_one(tmp_path):
    ended = launch(3, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(3)]
    for name in STEPPED:
        for m in (2, 5):
            alone = trained(name, None, num_microbatches=m)
            for rank in ranks:
                assert rank[f"{name} {m}"].keys() == alone.keys()
                for key, value in alone.items():
                    assert torch.allclose(rank[f"{name} {m}"][key], value, rtol=1e-10, atol=1e-13), (name, m, key)
