"""A mini-batch is cut into consecutive micro-batches, whatever it is made of."""

from __future__ import annotations

import contextlib

import pytest
import torch
from networks import ASCENTS, net, step_of
from torch.nn import functional

from msam import Layerwise, OneByOne, Vectorised, microbatches


@pytest.mark.parametrize("number", range(1, 12))
def test_the_parts_put_together_are_the_batch_and_sizes_differ_by_one_at_most(number):
    batch = torch.arange(11)
    parts = microbatches(batch, number)
    sizes = [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), batch)
    assert len(parts) == number
    assert max(sizes) - min(sizes) <= 1


def test_the_larger_parts_come_first():
    assert [len(part) for part in microbatches(torch.arange(11), 4)] == [3, 3, 3, 2]


def test_every_tensor_of_a_nested_batch_is_cut_at_the_same_places():
    batch = {"x": torch.arange(5), "more": [torch.arange(10).view(5, 2), (torch.arange(5) * 2,)]}
    first, second = microbatches(batch, 2)
    assert first["x"].tolist() == [0, 1, 2]
    assert second["more"][0].tolist() == [[6, 7], [8, 9]]
    assert second["more"][1][0].tolist() == [6, 8]


def test_what_is_not_per_example_goes_to_every_part():
    scale = torch.tensor(2.0)
    parts = microbatches((torch.arange(3), scale, "name", None), 2)
    assert all(part[1] is scale and part[2:] == ("name", None) for part in parts)


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_number_of_parts_that_does_not_fit_is_refused_with_the_ones_that_do(number):
    with pytest.raises(ValueError, match=rf"3 examples cannot be split into {number} micro-batches; .*between 1 and 3"):
        microbatches(torch.arange(3), number)


def test_parts_of_differing_length_are_refused():
    with pytest.raises(ValueError, match=r"agree in their first dimension.*\[3, 2\]"):
        microbatches((torch.arange(3), torch.arange(2)), 2)


@pytest.mark.parametrize("batch", [(), "text", {"a": 1}, torch.tensor(1.0)])
def test_a_batch_without_examples_is_refused(batch):
    with pytest.raises(ValueError, match="one row per example"):
        microbatches(batch, 1)


@pytest.mark.parametrize(
    "execution", [OneByOne(), OneByOne(device_batch_size=2), Layerwise(), Vectorised(memory=2**30)]
)
def test_texts_go_with_their_examples_in_every_execution(execution):
    model, (x, y) = net("mlp")
    names = ["a" * (1 + i % 3) for i in range(len(x))]

    def closure(batch):
        inputs, targets, read = batch
        share = read if isinstance(read, torch.Tensor) else torch.tensor([len(name) for name in read]).to(x)
        losses = functional.cross_entropy(model(inputs), targets, reduction="none")
        return (losses * share).sum() / share.sum(), share.sum()

    lengths = torch.tensor([len(name) for name in names]).to(x)
    texts, numbers = (step_of(model, (x, y, c), 3, ASCENTS[0], closure=closure) for c in (names, lengths))
    is_taken = not isinstance(execution, Vectorised)
    with contextlib.nullcontext() if is_taken else pytest.warns(UserWarning, match="the batch has lists"):
        found = execution.outcome(texts)
    for slope, expected in zip(found.gradient, OneByOne().outcome(numbers).gradient, strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
