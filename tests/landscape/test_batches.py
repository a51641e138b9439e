from __future__ import annotations

from collections import UserDict, namedtuple
from types import MappingProxyType

import pytest
import torch
from problems import N, normal, ragged

from landscape.batches import columns, concatenate, map_tensors, num_examples, regroup, rows, split, take, tensors
from landscape.chunks import merged
from landscape.fingerprint import Fingerprint

Pair = namedtuple("Pair", "x y")
X, Y = normal(N, 3), torch.arange(N)

NESTED = {
    "tensor": X,
    "tuple": (X, Y),
    "list": [X, Y],
    "dict": {"x": X, "y": Y},
    "nested": ((X, {"mask": Y}), Y),
    "named_tuple": Pair(X, Y),
    "user_dict": UserDict(x=X, y=Y),
    "texts": {"x": X, "names": [f"image {i}" for i in range(N)], "kind": "png"},
    "tuple of texts": (X, tuple("abcdefghijklm")),
    "not_a_tensor": (X, "text", None, (None, None), ()),
}


@pytest.mark.parametrize("batch", NESTED.values(), ids=NESTED.keys())
def test_map_tensors_keeps_the_structure_and_leaves_the_original_alone(batch):
    before = [tensor.clone() for tensor in tensors(batch)]
    doubled = map_tensors(lambda tensor: tensor * 2, batch)
    assert type(doubled) is type(batch)
    assert len(tensors(doubled)) == len(before) > 0
    assert all(torch.equal(new, 2 * old) for new, old in zip(tensors(doubled), before, strict=True))
    assert all(torch.equal(now, old) for now, old in zip(tensors(batch), before, strict=True))


def test_a_mapping_that_cannot_be_written_becomes_a_dict():
    assert torch.equal(map_tensors(torch.neg, MappingProxyType({"x": X}))["x"], -X)


def test_what_is_not_a_tensor_is_passed_through():
    assert map_tensors(torch.neg, (X, "text", None))[1:] == ("text", None)


@pytest.mark.parametrize("batch", NESTED.values(), ids=NESTED.keys())
def test_num_examples_is_the_shared_first_dimension(batch):
    assert num_examples(batch) == N


def test_a_scalar_tensor_has_no_examples_and_is_kept_whole():
    batch = (X, torch.tensor(2.0))
    assert num_examples(batch) == N
    assert take(batch, 0, 2)[1].item() == 2.0


def test_lengths_that_differ_are_refused_with_the_lengths():
    with pytest.raises(ValueError, match=r"must agree in their first dimension.*got lengths \[13, 4\]"):
        num_examples((X, Y[:4]))


def test_tensors_of_which_no_part_can_be_taken_are_refused():
    nested = torch.nested.nested_tensor([X[:2], X[:3]], layout=torch.jagged)
    for tensor, kind in ((X.to_sparse(), "sparse_coo"), (nested, "jagged")):
        with pytest.raises(
            ValueError, match=f"a tensor of a batch is {kind}, of which no part can be taken; make it den"
        ):
            num_examples((tensor, Y))


@pytest.mark.parametrize("batch", [(), "text", (torch.tensor(1.0),)])
def test_a_batch_without_rows_is_refused(batch):
    with pytest.raises(ValueError, match="a batch must contain a tensor with one row per example"):
        num_examples(batch)


def test_take_and_split_are_views_in_order():
    parts = split((X, Y), [5, 5, 3])
    assert [num_examples(part) for part in parts] == [5, 5, 3]
    assert torch.equal(torch.cat([part[1] for part in parts]), Y)
    assert parts[1][0].data_ptr() == X[5:].data_ptr()


@pytest.mark.parametrize("batch", list(NESTED.values())[:-1], ids=list(NESTED)[:-1])
def test_concatenate_undoes_split(batch):
    whole = concatenate(split(batch, [5, 5, 3]))
    assert type(whole) is type(batch)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(batch), strict=True))
    lists = [[part for part in columns(one) if not isinstance(part, torch.Tensor)] for one in (whole, batch)]
    assert lists[0] == lists[1]


def test_texts_go_with_their_examples_wherever_a_part_of_a_batch_is_taken():
    batch = NESTED["texts"]
    assert take(batch, 3, 5)["names"] == ["image 3", "image 4"]
    assert [len(part["names"]) for part in split(batch, [5, 5, 3])] == [5, 5, 3]
    assert rows(batch, torch.tensor([7, 2]))["names"] == ["image 7", "image 2"]
    assert take(NESTED["tuple of texts"], 3, 5)[1] == ("d", "e")
    assert take(batch, 3, 5)["kind"] == "png"
    (one,) = merged(split(batch, [5, 5, 3]))  # with which others they are, is no matter of shape
    assert one["names"] == batch["names"]


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (["a", "b"], r"must have one entry per example, 13 here, which is no list itself; got 2 entries, \['a', 'b'\]"),
        ((3, 224, 224), r"got 3 entries, \(3, 224, 224\)\. Put what is not per example outside the batch"),
        ([["a"] * N] * 2, "which is no list itself; got 2 entries"),  # a column of texts for each of two words
        ([["a"]] * N, "which is no list itself; got 13 entries"),
        (Y.numpy(), r"holds an array of numpy, of shape \(13,\); make it a tensor"),
    ],
    ids=["too few", "a shape", "columns", "lists", "numpy"],
)
def test_a_list_of_which_it_is_not_clear_what_goes_with_an_example_is_refused(part, sentence):
    with pytest.raises(ValueError, match=sentence):
        num_examples({"x": X, "inside": {"part": part}})


@pytest.mark.parametrize(
    ("first", "second"),
    [((X, Y), (X, Y, Y)), ((X, Y, Y), (X, Y)), ((X, Y), (X[:, :2], Y))],
    ids=["one more tensor", "one tensor less", "another shape"],
)
def test_batches_of_another_structure_or_shape_cannot_be_put_together(first, second):
    with pytest.raises(ValueError, match=r"examples of two batches cannot be put into one.*; pad all examples"):
        concatenate([first, second])


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 12, 13])
def test_regroup_keeps_examples_and_order_and_only_the_last_group_is_smaller(size):
    groups = list(regroup(ragged(X, Y), size))
    lengths = [sum(map(num_examples, group)) for group in groups]
    assert lengths[:-1] == [size] * (len(lengths) - 1)
    assert 1 <= lengths[-1] <= size
    assert torch.equal(torch.cat([x for group in groups for x, _ in group]), X)
    assert torch.equal(torch.cat([y for group in groups for _, y in group]), Y)


def test_the_content_ignores_how_the_examples_are_ordered_and_batched():
    order = torch.randperm(N)
    first, second = Fingerprint.of(ragged(X, Y)), Fingerprint.of([(X[order], Y[order])])
    assert first.content == second.content
    assert first.examples == second.examples
    assert first.order != second.order


def test_the_order_ignores_how_the_examples_are_batched():
    assert Fingerprint.of(ragged(X, Y)).order == Fingerprint.of([(X, Y)]).order


@pytest.mark.parametrize(
    "other",
    [(X, Y.flip(0)), (X + 1e-12, Y), (X[:-1], Y[:-1]), (X.float(), Y), (X.view(N, 3, 1), Y)],
    ids=["pairing", "value", "one example less", "dtype", "shape"],
)
def test_the_content_sees_every_difference(other):
    assert Fingerprint.of([other]).content != Fingerprint.of([(X, Y)]).content


def test_the_content_counts_repeated_examples():
    assert Fingerprint.of([X, X]).content != Fingerprint.of([X]).content


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.int8, torch.complex64])
def test_a_fingerprint_takes_every_dtype(dtype):
    assert sum(Fingerprint.of([X.to(dtype)[:, ::2]]).examples.values()) == N


COMMON = {
    "a number": ((X, 1.0), (X, 2.0)),
    "a scalar tensor": ((X, torch.tensor(1)), (X, torch.tensor(2))),
    "a text": ({"x": X, "task": "a"}, {"x": X, "task": "b"}),
    "nothing": ((X, None), (X, "")),
    "keys": ({"x": X, "y": Y}, {"y": X, "x": Y}),
    "names of examples": ((X, ["a"] * N), (X, ["a"] * (N - 1) + ["b"])),
}


@pytest.mark.parametrize(("first", "second"), COMMON.values(), ids=COMMON.keys())
def test_a_fingerprint_sees_what_is_no_row_of_a_tensor(first, second):
    assert Fingerprint.of([first]).content != Fingerprint.of([second]).content
    assert Fingerprint.of([first]).content == Fingerprint.of([first]).content


def test_names_of_examples_follow_them_into_other_batches():
    names = [f"image {i}" for i in range(N)]
    whole = Fingerprint.of([(X, Y, names)])
    parts = Fingerprint.of([(X[:5], Y[:5], names[:5]), (X[5:], Y[5:], names[5:])])
    assert (parts.content, parts.order) == (whole.content, whole.order)
