"""The same paths on one, two and three processes, that share the losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from launching import launch

from landscape.processes import Alone
from landscape.results import Result
from tests.landscape.distributed_paths import measured

PROGRAM = Path(__file__).with_name("distributed_paths.py")


def test_any_number_of_processes_finds_the_same_paths(tmp_path):
    ended = launch(3, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name, expected in measured(Alone()).items():
        assert expected.held_out_rise_stderrs.any()
        for number in (2, 3):
            of_ranks = [Result.load(tmp_path / f"{number}" / f"{name}{rank}.npz") for rank in range(number)]
            for found in of_ranks:
                for field in dataclasses.fields(found):
                    ours, first, alone = (getattr(each, field.name) for each in (found, of_ranks[0], expected))
                    if isinstance(alone, np.ndarray) and alone.dtype.kind == "f":
                        np.testing.assert_array_equal(ours, first, field.name)
                        np.testing.assert_allclose(ours, alone, rtol=1e-9, atol=1e-12, err_msg=field.name)
