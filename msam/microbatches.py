"""A mini-batch split into micro-batches."""

from __future__ import annotations

from landscape.batches import Batch, num_examples, split


def microbatches(batch: Batch, number: int) -> list[Batch]:
    """``number`` consecutive micro-batches whose sizes differ by one example at the most, the larger ones first.

    Args:
        batch: a tensor, or tuples, lists and mappings of tensors that share their first dimension; a list of what are
            no tensors, such as texts, has an entry for each example.
        number: of micro-batches, from 1 to the number of examples.

    Raises:
        ValueError: if there are fewer examples than micro-batches, or the parts of the batch differ in length.

    >>> import torch
    >>> [part.tolist() for part in microbatches(torch.arange(5), 3)]
    [[0, 1], [2, 3], [4]]
    """
    return split(batch, sizes(num_examples(batch), number))


def sizes(size: int, number: int) -> list[int]:
    """The numbers of examples of ``number`` micro-batches of a batch of ``size``.

    Raises:
        ValueError: if there are fewer examples than micro-batches.
    """
    if not 1 <= number <= size:
        raise ValueError(
            f"a batch of {size} examples cannot be split into {number} micro-batches; "
            f"choose between 1 and {size}, or larger batches"
        )
    small, larger = divmod(size, number)
    return [small + 1] * larger + [small] * (number - larger)
