"""The same slices on one, two and three processes, that share the points."""

from __future__ import annotations

from pathlib import Path

import torch
from launching import launch

from landscape.kept import FinishedPoints
from landscape.processes import Alone
from landscape.results import Result
from tests.landscape.distributed_slices import measured

PROGRAM = Path(__file__).with_name("distributed_slices.py")


def test_any_number_of_processes_finds_the_same_slices(tmp_path):
    ended = launch(3, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = measured(Alone())
    finally:
        torch.set_num_threads(threads)
    assert not alone["adaptive"].evaluated.all()
    for number in (2, 3):
        for name, expected in alone.items():
            for rank in range(number):
                assert Result.load(tmp_path / f"{number}" / f"{name}{rank}.npz") == expected  # every bit
        assert FinishedPoints.load(tmp_path / f"{number}" / "points.npz").finished.all()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(3)]
    assert [rank["exchanges"] <= 4 for rank in ranks] == [True] * 3
    assert ranks[-1]["failing"] == "FloatingPointError: here"
    assert ranks[0]["refused"].startswith("ValueError: kept=")
    for rank in ranks:
        assert rank["different"].startswith("ValueError: the processes ask different questions")
    for rank in ranks[:-1]:
        assert rank["failing"].startswith("ProcessLostError: another process has failed; the reason is what")
    for rank in ranks[1:]:
        assert rank["refused"].startswith("ProcessLostError: another process has failed")
