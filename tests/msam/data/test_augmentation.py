"""Images moved, mirrored, cut and mixed: closed forms for given draws, and draws that are what they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from msam.data import Composed, Crop, Cutout, Flip, MixUp, augmentation_of, draws_of

IMAGES = torch.arange(7 * 2 * 3 * 5, dtype=torch.float64).view(7, 2, 3, 5) + 1  # no pixel is zero
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Given:
    """Draws that were written down."""

    def __init__(self, *drawn):
        self.drawn = list(drawn)

    def __call__(self, *ranges, size):
        found = np.asarray(self.drawn.pop(0))
        assert found.shape == (size if isinstance(size, tuple) else (size,))
        return found

    integers = beta = __call__

    def permutation(self, number):
        return self(size=number)


def moved(image, down, right):
    """An image shifted, with zeros where nothing comes in."""
    rows, columns = image.shape[-2:]
    found = torch.zeros_like(image)
    for i in range(rows):
        for j in range(columns):
            if 0 <= i - down < rows and 0 <= j - right < columns:
                found[..., i, j] = image[..., i - down, j - right]
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.uint8])
def test_a_crop_is_the_image_shifted(dtype):
    images = IMAGES.to(dtype)
    top, left = [0, 1, 2, 3, 4, 2, 0], [4, 3, 2, 1, 0, 0, 2]
    found, targets = Crop(padding=2)(images, CLASSES, draws=Given([top, left]))
    expected = [moved(image, 2 - i, 2 - j) for image, i, j in zip(images, top, left, strict=True)]
    assert torch.equal(found, torch.stack(expected))
    assert found.dtype == dtype
    assert targets is CLASSES


def test_crops_take_every_place_with_the_same_chance():
    found, _ = Crop(padding=1)(torch.eye(3).view(1, 1, 3, 3).expand(9000, -1, -1, -1), None, draws=draws_of(0, 0, 1))
    places, counts = found.unique(dim=0, return_counts=True)
    assert len(places) == 7  # of the nine, three show the diagonal as it is, moved along itself, but for its ends
    assert counts.sum() == 9000
    rows = draws_of(0, 0, 1).integers(0, 3, size=(2, 9000))
    assert np.bincount(rows[0] * 3 + rows[1], minlength=9) == pytest.approx(1000, abs=130)  # four deviations


def test_a_flip_mirrors_half_of_the_images():
    found, targets = Flip()(IMAGES, CLASSES, draws=Given([1, 0, 1, 0, 0, 1, 1]))
    for image, before, flipped in zip(found, IMAGES, [1, 0, 1, 0, 0, 1, 1], strict=True):
        assert torch.equal(image, before[..., [4, 3, 2, 1, 0]] if flipped else before)
    assert targets is CLASSES
    many = torch.tensor([1, 0], dtype=torch.uint8).expand(10_000, 1, 1, 2)
    mirrored, _ = Flip()(many, None, draws=draws_of(0, 0, 1))
    assert mirrored[:, 0, 0, 1].float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("size", "reach"), [(0, ()), (1, (0,)), (2, (-1, 0)), (3, (-1, 0, 1)), (4, (-2, -1, 0, 1))])
def test_a_cutout_is_a_square_of_zeros_clipped_at_the_borders(size, reach):
    rows, columns = [0, 1, 2, 0, 1, 2, 2], [0, 1, 2, 3, 4, 4, 0]
    found, targets = Cutout(size)(IMAGES, CLASSES, draws=Given(rows, columns))
    for image, before, i, j in zip(found, IMAGES, rows, columns, strict=True):
        expected = before.clone()
        for row in [i + step for step in reach if 0 <= i + step < 3]:
            for column in [j + step for step in reach if 0 <= j + step < 5]:
                expected[:, row, column] = 0
        assert torch.equal(image, expected)
    assert targets is CLASSES


def test_centres_of_cutouts_are_drawn_from_all_pixels():
    found, _ = Cutout(1)(torch.ones(6000, 1, 2, 3, dtype=torch.uint8), None, draws=draws_of(0, 0, 1))
    assert (found == 0).sum(0).flatten().tolist() == pytest.approx([1000] * 6, abs=120)


@pytest.mark.parametrize("targets", [CLASSES, functional.one_hot(CLASSES).double()], ids=["classes", "probabilities"])
def test_mixup_is_the_convex_combination_of_two_examples(targets):
    shares, partners = [0.0, 0.25, 1.0, 0.5, 0.75, 0.1, 0.9], [3, 0, 1, 2, 4, 6, 5]
    x, y = MixUp(0.3, classes=3)(IMAGES, targets, draws=Given(shares, partners))
    for i, (share, partner) in enumerate(zip(shares, partners, strict=True)):
        assert torch.equal(x[i], share * IMAGES[i] + (1 - share) * IMAGES[partner])
        expected = torch.zeros(3, dtype=torch.float64)
        expected[CLASSES[i]] += share
        expected[CLASSES[partner]] += 1 - share
        torch.testing.assert_close(y[i], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_shares_of_mixup_are_of_the_beta_distribution_and_the_targets_add_up_to_one(alpha):
    number = 20_000
    x, y = MixUp(alpha, classes=2)(torch.eye(number, 2), torch.zeros(number).long(), draws=draws_of(1, 2, 3))
    assert x.dtype == y.dtype == torch.float32
    torch.testing.assert_close(y, torch.tensor([1.0, 0.0]).expand(number, 2), rtol=0, atol=2e-7)
    inputs = torch.zeros(number, 1, dtype=torch.float64)
    inputs[: number // 2] = 1
    mixed, _ = MixUp(alpha, classes=1)(inputs, torch.zeros(number).long(), draws=draws_of(1, 2, 3))
    shares = mixed[(mixed > 0) & (mixed < 1)]  # λ of a one with a zero, or 1 − λ: the same distribution
    variance = 1 / (4 * (2 * alpha + 1))
    assert len(shares) == pytest.approx(number / 2, rel=0.05)
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * (variance / len(shares)) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.04)


def test_the_loss_of_mixed_targets_is_that_of_the_two_in_their_shares():
    outputs = torch.randn(7, 3, dtype=torch.float64)
    shares, partners = torch.rand(7, dtype=torch.float64), torch.tensor([3, 0, 1, 2, 4, 6, 5])
    _, y = MixUp(1.0, classes=3).mixed(IMAGES, CLASSES, shares, partners)
    one, other = (functional.cross_entropy(outputs, t, reduction="none") for t in (CLASSES, CLASSES[partners]))
    expected = (shares * one + (1 - shares) * other).mean()
    torch.testing.assert_close(functional.cross_entropy(outputs, y), expected, rtol=1e-12, atol=0)


def test_pixels_are_mixed_on_their_own_scale():
    x, _ = MixUp(1.0, classes=2)(
        torch.tensor([[0], [255]], dtype=torch.uint8), torch.tensor([0, 1]), draws=Given([0.5, 0.2], [1, 0])
    )
    assert x.flatten().tolist() == pytest.approx([127.5, 51])


def test_one_after_another():
    both = Composed(Crop(padding=1), Flip())
    found, _ = both(IMAGES, CLASSES, draws=draws_of(0, 0, 1))
    draws = draws_of(0, 0, 1)
    expected, _ = Flip()(Crop(padding=1)(IMAGES, CLASSES, draws=draws)[0], CLASSES, draws=draws)
    assert torch.equal(found, expected)
    assert not torch.equal(found, IMAGES)


def test_draws_depend_on_seed_epoch_and_step_and_on_nothing_else():
    state = torch.get_rng_state()
    first, again, *others = [draws_of(*n).random() for n in [(1, 2, 3), (1, 2, 3), (2, 1, 3), (1, 3, 2), (0, 2, 3)]]
    assert first == again
    assert len({first, *others}) == 4
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", "None"),
        ("crop", "Composed(Crop(padding=1))"),
        ("crop+flip+cutout+mixup", "Composed(Crop(padding=1), Flip(), Cutout(4), MixUp(0.2, classes=10))"),
        ("mixup=1e-1 + crop=2+cutout=8", "Composed(MixUp(0.1, classes=10), Crop(padding=2), Cutout(8))"),
    ],
)
def test_a_text_names_an_augmentation(text, found):
    assert repr(augmentation_of(text, size=8, classes=10)) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is no augmentation ''; There are: crop, flip, cutout, mixup, with [+] between them, or none"),
        ("cut", "there is no augmentation 'cut'; did you mean 'cutout'?"),
        ("none+flip", "there is no augmentation 'none'"),
        ("crop,flip", "there is no augmentation 'crop,flip'"),
        ("flip+crop+flip", "flip occurs twice in 'flip[+]crop[+]flip'; name it once"),
        ("flip=1", "flip takes no number; got 'flip=1'"),
        ("crop=", "crop takes a whole number of pixels from 1 to 8, the side of the images; got ''"),
        ("crop=9", "crop takes a whole number of pixels from 1 to 8, .*; got '9'"),
        ("cutout=-2", "cutout takes a whole number of pixels .* got '-2'"),
        ("cutout=2.5", "cutout takes a whole number of pixels .* got '2.5'"),
        ("mixup=0", "mixup takes a positive number, its alpha, such as mixup=0.2; got '0'"),
        ("mixup=nan", "mixup takes a positive number.*got 'nan'"),
        ("mixup=some", "mixup takes a positive number.*got 'some'"),
    ],
)
def test_a_text_that_names_none_is_refused_with_what_there_is(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        augmentation_of(text, size=8, classes=10)


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: Crop(padding=-1), ValueError, "padding must be at least 0; got -1"),
        (lambda: Cutout(size=1.5), TypeError, "size must be an integer; got 1.5"),
        (lambda: MixUp(0.0, classes=3), ValueError, "alpha must be a positive number; got 0.0"),
        (lambda: MixUp(1.0, classes=0), ValueError, "classes must be at least 1; got 0"),
        (lambda: Crop()(IMAGES[0], CLASSES, draws=None), TypeError, r"take images \(n, .*; got shape \(2, 3, 5\)"),
        (lambda: Flip()({"pixels": IMAGES}, CLASSES, draws=None), TypeError, "take images .*; got dict"),
        (lambda: Cutout(2)(IMAGES[:, 0], CLASSES, draws=None), TypeError, r"got shape \(7, 3, 5\)"),
        (
            lambda: MixUp(1.0, classes=2)(IMAGES, CLASSES, draws=draws_of(0, 0, 0)),
            ValueError,
            r"number 2 classes from 0 on; got targets of shape \(7,\) from 0 to 2",
        ),
        (
            lambda: MixUp(1.0, classes=3)(IMAGES.long(), CLASSES, draws=draws_of(0, 0, 0)),
            TypeError,
            "floating point numbers, or uint8 pixels; the inputs are torch.int64",
        ),
    ],
)
def test_what_cannot_be_augmented_is_refused(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()
