"""Processes that round differently find the same numbers, led by the first; none waits for another in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launching import launch

from landscape import top_eigenvalues
from landscape.bits import PIECES, in_two, pieces_of
from landscape.processes import Alone
from tests.landscape.distributed_products import QUESTIONS, small_hessian

PROGRAM = Path(__file__).with_name("distributed_unlike.py")


@pytest.mark.parametrize("number", [2, 3])
def test_processes_that_do_not_compute_alike_are_led_by_the_first(number, tmp_path):
    ended = launch(number, PROGRAM, tmp_path)
    assert ended.returncode == 0, ended.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(number)]
    right = top_eigenvalues(small_hessian(Alone()), 3, tol=1e-9)
    for rank in ranks:
        for question, ask in QUESTIONS.items():
            found, alike, exchanges = rank["rounded"][question]
            assert found == pytest.approx(list(map(float, ask(small_hessian(Alone())))), rel=1e-9, abs=1e-12), question
            assert not alike
            assert exchanges["broadcast"] > 0
        values, converged, products, alike = rank["ended_early"]
        assert values == pytest.approx(right.eigenvalues.tolist(), rel=1e-10)
        assert all(converged)
        assert products == right.num_products
        assert not alike
        values, vectors, alike = rank["turned_around"]
        assert values == pytest.approx(right.eigenvalues.tolist(), rel=1e-10)
        assert torch.equal(vectors, ranks[0]["turned_around"][1])
        assert not alike
        assert rank["different"].startswith("ApartError: the processes multiply different vectors with the parts of")


def test_a_checksum_tells_bits_apart_and_not_layouts():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double()
    told = pieces_of(x)
    assert told.shape == (PIECES,)
    assert all(0 <= piece < 4096 for piece in told.tolist())
    assert told.equal(pieces_of(x.T.contiguous().T))
    assert told.equal(pieces_of(torch.stack([x, x])[1]))
    others = [-x, x * (1 + 2**-52), x.roll(1, 0) * x.new_tensor([1, 1, 1, 1, 1.5]), x.float(), torch.zeros_like(x)]
    near = x.clone()  # one up, one down
    near[0, 0], near[0, 1] = near[0, 0].nextafter(near.new_tensor(9.0)), near[0, 1].nextafter(near.new_tensor(-9.0))
    assert not any(told.equal(pieces_of(other)) for other in [*others, near])
    column = torch.ones(4, 3)[:, :1]
    assert pieces_of(column).equal(pieces_of(torch.ones(4)))


def test_a_number_is_two_of_single_precision():
    for value in (0.0, 1e6 + 0.123456789, -3.25, 7 * 2.0**40 + 3):
        assert in_two(value, like=torch.zeros(1)).double().sum() == pytest.approx(value, rel=1e-14)
