"""Numbers that go along with others from process to process: a checksum of bits, and one number as two."""

from __future__ import annotations

import torch
from torch import Tensor

PIECES = 4  # of twelve bits each: sums of 4,000 of them are whole numbers in single precision, too


def pieces_of(tensor: Tensor) -> Tensor:
    """A checksum of the bits of numbers in single or double precision, ``(PIECES,)``, whole and below 4096.

    It hangs on neither the order of the numbers nor on anything but their bits.

    >>> pieces_of(torch.ones(3)).tolist() == pieces_of(torch.ones(3)).tolist() != pieces_of(-torch.ones(3)).tolist()
    True
    """
    words = tensor.detach().reshape(-1).contiguous().view(torch.int32)
    total = 2_654_435_761 * words.sum(dtype=torch.int64) + (words * words).sum(dtype=torch.int64)  # which wrap around
    return torch.stack([total >> 12 * place & 4095 for place in range(PIECES)])


def in_two(value: float, *, like: Tensor) -> Tensor:
    """A number as the sum of two of a dtype, ``(2,)``: twice the digits of one.

    >>> sum(in_two(1e9 + 0.25, like=torch.zeros(1)).tolist())
    1000000000.25
    """
    coarse = float(torch.tensor(value, dtype=like.dtype, device="cpu"))
    return like.new_tensor([coarse, value - coarse])
