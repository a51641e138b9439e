"""Data are split, spoiled and ordered the same way for the same seeds, and only as told."""

from __future__ import annotations

import pytest
import torch

from msam.data import Examples, digits_examples, shuffled, stratified, with_label_noise


@pytest.fixture(scope="module")
def digits():
    return digits_examples()


def numbered(number, classes=3):
    """Examples whose only input is their own number."""
    return Examples(torch.arange(number)[:, None], torch.arange(number) % classes)


def test_the_digits_are_1797_images_between_0_and_1(digits):
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert digits.inputs.dtype == torch.float32
    assert (digits.inputs.min(), digits.inputs.max()) == (0, 1)
    assert torch.equal(digits.targets.unique(), torch.arange(10))


def test_batches_cover_the_examples_once_and_the_last_is_what_is_left():
    batches = list(numbered(11).batches(4))
    assert [len(targets) for _, targets in batches] == [4, 4, 3]
    assert torch.cat([inputs for inputs, _ in batches]).flatten().tolist() == list(range(11))


def test_batches_in_an_order_keep_inputs_and_labels_together():
    order = shuffled(11, seed=0, epoch=0)
    batches = list(numbered(11).batches(4, order=order))
    assert [len(targets) for _, targets in batches] == [4, 4, 3]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]).flatten(), order)
    assert all(torch.equal(inputs.flatten() % 3, targets) for inputs, targets in batches)


def test_two_parts_are_disjoint_and_together_all():
    first, second = stratified(numbered(100), 37, seed=0)
    assert (len(first), len(second)) == (37, 63)
    assert sorted(first.inputs.flatten().tolist() + second.inputs.flatten().tolist()) == list(range(100))


def test_two_parts_keep_inputs_with_their_labels():
    for part in stratified(numbered(100), 37, seed=0):
        assert torch.equal(part.inputs.flatten() % 3, part.targets)


def test_classes_have_the_same_proportions_in_both_parts(digits):
    first, second = stratified(digits, 1000, seed=0)
    expected = digits.targets.bincount() / len(digits)
    for part in (first, second):
        assert (part.targets.bincount() - expected * len(part)).abs().max() < 1


def test_the_seed_alone_decides_the_parts():
    torch.manual_seed(1)
    once = stratified(numbered(100), 37, seed=0)[0].inputs
    torch.manual_seed(2)
    assert torch.equal(once, stratified(numbered(100), 37, seed=0)[0].inputs)
    assert not torch.equal(once, stratified(numbered(100), 37, seed=1)[0].inputs)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 1.0])
def test_label_noise_redraws_exactly_the_fraction_asked_for(fraction):
    clean = numbered(203)
    noisy = with_label_noise(clean, fraction, classes=2**40, seed=0)  # so many that none is drawn by chance
    assert (noisy.targets != clean.targets).sum() == round(fraction * 203)
    assert torch.equal(noisy.inputs, clean.inputs)
    assert torch.equal(clean.targets, torch.arange(203) % 3)


def test_label_noise_draws_from_all_classes_the_true_one_included():
    clean = numbered(3000)
    noisy = with_label_noise(clean, 1.0, classes=3, seed=0).targets
    assert noisy.bincount().tolist() == pytest.approx([1000] * 3, abs=100)
    assert (noisy == clean.targets).sum().item() == pytest.approx(1000, abs=100)


def test_the_seed_alone_decides_the_noise_and_the_global_random_state_stays():
    before = torch.get_rng_state()
    once = with_label_noise(numbered(50), 0.5, classes=3, seed=4).targets
    torch.rand(3)
    assert torch.equal(once, with_label_noise(numbered(50), 0.5, classes=3, seed=4).targets)
    assert not torch.equal(once, with_label_noise(numbered(50), 0.5, classes=3, seed=5).targets)
    torch.set_rng_state(before)


def test_the_order_of_an_epoch_is_a_permutation():
    assert torch.equal(shuffled(11, seed=0, epoch=0).sort().values, torch.arange(11))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    before = torch.get_rng_state()
    orders = {(seed, epoch): shuffled(50, seed=seed, epoch=epoch).tolist() for seed in range(4) for epoch in range(4)}
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert all(shuffled(50, seed=seed, epoch=epoch).tolist() == order for (seed, epoch), order in orders.items())
    assert len({tuple(order) for order in orders.values()}) == 16


def test_examples_move_to_a_device_together():
    moved = numbered(3).to(torch.device("meta"))
    assert moved.inputs.device.type == moved.targets.device.type == "meta"


def test_examples_without_room_on_a_device_stay_and_go_there_batch_by_batch(monkeypatch):
    here, device = numbered(11), torch.device("meta")
    monkeypatch.setattr(
        "landscape.memory.available_bytes", lambda device: 4 * here.inputs.nbytes
    )  # not for targets too
    staying = here.to(device)
    assert staying.inputs is here.inputs
    for order in (None, shuffled(11, seed=0, epoch=0)):
        found = list(staying.batches(4, order=order))
        assert [(inputs.device.type, len(targets)) for inputs, targets in found] == [("meta", n) for n in (4, 4, 3)]
    assert {part.device.type for part in staying.taken(torch.arange(2)).to(device).batches(1).__next__()} == {"meta"}
    monkeypatch.setattr("landscape.memory.available_bytes", lambda device: 8 * here.inputs.nbytes)
    assert here.to(device).inputs.device == device
