"""What is trained on and what validates: disjoint, stratified, and the second is the same whatever the first is."""

from __future__ import annotations

import pytest
import torch

from msam.data.splits import rows_to_test_on, stratified_rows, training_and_validation

TARGETS = torch.arange(200) % 4


def parts(train=None, validation=40, seed=0, targets=TARGETS):
    return training_and_validation(targets, train_examples=train, validation_examples=validation, seed=seed)


def test_the_parts_are_disjoint_and_stratified():
    train, validation = parts(train=80)
    assert (len(train), len(validation)) == (80, 40)
    assert not set(train.tolist()) & set(validation.tolist())
    assert TARGETS[train].bincount().tolist() == [20] * 4
    assert TARGETS[validation].bincount().tolist() == [10] * 4
    everything, _ = parts()
    assert sorted(everything.tolist() + validation.tolist()) == list(range(200))


def test_the_validation_set_is_the_same_for_every_subset_and_seed_and_no_part_of_it_is_ever_trained_on():
    validation = parts()[1].tolist()
    for train in (None, 4, 80, 156, 160):
        for seed in (0, 1):
            found = parts(train=train, seed=seed)
            assert found[1].tolist() == validation
            assert not set(found[0].tolist()) & set(validation)


def test_the_seed_decides_the_subset():
    assert parts(train=80)[0].tolist() == parts(train=80)[0].tolist() != parts(train=80, seed=1)[0].tolist()


def test_without_validation_the_subset_is_what_it_was_before_there_was_any():
    expected, _ = stratified_rows(TARGETS, 80, seed=3)
    train, validation = parts(train=80, validation=0, seed=3)
    assert train.tolist() == expected.tolist()
    assert len(validation) == 0
    assert parts(validation=0)[0].tolist() == list(range(200))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train": 3}, "train_examples must be between 4 and 156, or 160; got 3"),
        ({"train": 157}, "train_examples must be between 4 and 156, or 160; got 157"),
        ({"train": 200}, "train_examples must be between 4 and 156, or 160; got 200"),
        ({"validation": 3}, "validation_examples must be between 4 and 196; got 3"),
        ({"validation": 200}, "validation_examples must be between 4 and 196; got 200"),
        ({"validation": -1}, "validation_examples must be between 4 and 196; got -1"),
        ({"targets": torch.tensor([0, 0, 1])}, "validation_examples must be left out: there is a class of one example"),
    ],
)
def test_a_part_without_an_example_of_each_class_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parts(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"train": 5, "validation": 0},
            "train_examples 5 has no example of class 1, which is 2 of 52; take 26 or more",
        ),
        (
            {"train": None, "validation": 5},
            "validation_examples 5 has no example of class 1, which is 2 of 52; take 26",
        ),
        ({"train": None, "validation": 48}, "validation_examples 48 leaves no example of class 1, .* take 26 or fewer"),
    ],
)
def test_a_part_in_proportion_that_would_lack_a_rare_class_is_refused(settings, sentence):
    rare = torch.tensor([0] * 50 + [1] * 2)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parts(targets=rare, **settings)
    for number in (26, 50):  # what is advised, and what serves
        train, validation = parts(train=number, validation=0, targets=rare)
        assert set(rare[train].tolist()) == {0, 1}
    train, validation = parts(validation=26, targets=rare)
    assert set(rare[train].tolist()) == set(rare[validation].tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"^test_fraction 0\.2 has no example of class 1, which is 2 of 52; take 26"):
        rows_to_test_on(rare, 0.2)
    assert set(rare[rows_to_test_on(rare, 0.5)].tolist()) == {0, 1}


def test_the_images_to_test_on_are_a_stratified_part_that_is_always_the_same():
    rows = rows_to_test_on(TARGETS, 0.2)
    assert TARGETS[rows].bincount().tolist() == [10] * 4
    assert rows.tolist() == rows_to_test_on(TARGETS, 0.2).tolist()
    for fraction in (0.0, 1.0, 0.01, 0.999, float("nan")):
        with pytest.raises(ValueError, match="test_fraction"):
            rows_to_test_on(TARGETS, fraction)
