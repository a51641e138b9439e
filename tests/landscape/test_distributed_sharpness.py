"""The same sharpness on one process and on three, which divide its shards or its chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import launch

from landscape.processes import Alone
from tests.landscape.distributed_sharpness import in_one_chunk, measured

PROGRAM = Path(__file__).with_name("distributed_sharpness.py")


def test_three_processes_find_the_same_numbers(tmp_path):
    ended = launch(3, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    alone = measured(Alone())
    first, second, last = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3))
    for other in (first, second):
        assert other.pop("error").startswith("ProcessLostError: another process has failed")
    assert last.pop("error").startswith("AttributeError: 'NoneType' object has no attribute")
    assert first == second == last
    single = first.pop("one chunk")
    for name, value in in_one_chunk(Alone()).items():
        assert single[name] == pytest.approx(value, rel=1e-4), name
    assert first.pop("starts") == alone.pop("starts")
    assert alone["denominators"] == [4, 4, 4, 1]
    assert first.keys() == alone.keys()
    for name, value in alone.items():
        assert first[name] == pytest.approx(value, rel=1e-9), name
