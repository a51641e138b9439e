"""The same numbers on one, two and three processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launching import launch

from landscape import KeptGraphs
from landscape.processes import Alone
from tests.landscape.distributed_products import QUESTIONS, cut_alike, exchanges_of, in_single, measured, sharpness

PROGRAM = Path(__file__).with_name("distributed_products.py")


@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_processes_finds_the_same_numbers_with_one_exchange_per_product(number, tmp_path):
    ended = launch(number, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    alone, rises = measured(Alone(), KeptGraphs()), sharpness(Alone())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(number)]
    for rank in ranks:
        for way in ("kept", "rebuilt"):
            for key, value in alone.items():
                assert torch.allclose(rank[way][key], value, rtol=1e-12, atol=1e-14), (way, key)
                assert torch.equal(rank[way][key], ranks[0][way][key]), (way, key)
        assert rank["exchanges"] == rank["sharpness"]["exchanges"] == 1
        for key, value in rises.items():
            if key not in ("exchanges", "ways"):
                assert torch.allclose(rank["sharpness"][key], value, rtol=1e-12, atol=1e-14), key
                assert torch.equal(rank["sharpness"][key], ranks[0]["sharpness"][key]), key
        assert rank["sharpness"]["ways"] == rises["ways"] == 26
    for rank in ranks:  # decided by the clock, the timings and the measurements of the first
        assert [found[0] for found in rank["in_time"].values()] == ["out of time", "time", "time"]
        assert rank["in_time"] == ranks[0]["in_time"]
        assert rank["chosen"] == ranks[0]["chosen"]
        assert rank["in_single"] == in_single(Alone())
        assert rank["in_single"][1].endswith("in single precision")
        assert rank["cut_alike"] == pytest.approx(cut_alike(Alone()), rel=1e-12)
    for name, limit, constant in (("questions", {}, 1), ("limited", {"max_seconds": 1e6}, 2)):  # the end; the limit
        for question in QUESTIONS:
            looks = 3 if question == "precise trace" else 0  # after 12, 24 and 48 products, say
            passes, _, values = exchanges_of(Alone(), question, **limit)
            for rank in ranks:
                own, exchanges, found = rank[name][question]
                assert own == passes, question
                assert found == pytest.approx(values, rel=1e-9, abs=1e-12), question
                assert set(exchanges) == {"all_reduce"}, question
                assert passes <= exchanges["all_reduce"] <= passes + constant + looks, question
    for rank in ranks[:-1]:
        for error in (rank["error"], rank["wrongly_chosen"]):
            assert error.startswith("ProcessLostError: another process has failed")
    assert ranks[-1]["error"].startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert ranks[-1]["wrongly_chosen"].startswith("ValueError: products by graphs rebuilt and by graphs kept differ by")
