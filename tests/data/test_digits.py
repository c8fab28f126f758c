"""The built-in digits: deterministic, exact masks, disjoint splits."""

import numpy as np
import pytest

from lrsegformer.data import digits
from lrsegformer.data.digits import DigitsClassification, DigitsSegmentation, load_digit_images


def test_an_item_depends_only_on_seed_split_and_index():
    def pixels(seed=0, split="train", index=3, count=10):
        return np.asarray(DigitsSegmentation(split, count, 64, seed)[index].image)

    assert np.array_equal(pixels(), pixels(count=50))
    for other in (pixels(seed=1), pixels(split="validation"), pixels(index=4)):
        assert not np.array_equal(pixels(), other)


@pytest.mark.parametrize("side", [32, 100, 128])
def test_masks_fit_and_hold_two_to_five_digits(side, monkeypatch):
    drawn = []
    draw = digits._draw
    monkeypatch.setattr(digits, "_draw", lambda patch, *rest: drawn.append(patch.shape[0]) or draw(patch, *rest))
    source = DigitsSegmentation("train", 60, side, 0)
    for example in source:
        assert example.image.size == (side, side)
        assert example.target.shape == (side, side)
        assert example.target.dtype == np.uint8
        assert example.target.max() <= 10
        assert 2 <= len(drawn) <= 5
        # The box also holds the rim of a pixel of the 8-pixel scans on either side, hence a little more than 60 %.
        assert all(0.2 * side - 1 <= height <= 0.8 * side + 1 for height in drawn)
        drawn.clear()


def test_the_mask_is_where_the_ink_is():
    source = DigitsSegmentation("validation", 20, 96, 5)
    for index in range(20):
        example = source[index]
        marked = example.target > 0
        assert 0.01 < marked.mean() < 0.6
    # Ink is of one colour: inside an eroded mask of one digit the spread is far below that of the photograph.
    spreads = []
    for index in range(20):
        example = source[index]
        for value in np.unique(example.target)[1:]:
            inside = example.target == value
            core = (
                inside
                & np.roll(inside, 2, 0)
                & np.roll(inside, -2, 0)
                & np.roll(inside, 2, 1)
                & np.roll(inside, -2, 1)
            )
            if core.sum() > 20:
                spreads.append(np.asarray(example.image, dtype=float)[core].std(axis=0).mean())
    assert np.median(spreads) < 5


def test_splits_share_no_digit_and_no_photograph_half():
    train, validation = digits._material("train"), digits._material("validation")
    assert len(train[0]) + len(validation[0]) == 1797
    assert {half.size for half in train[2] + validation[2]} == {(320, 427)}
    for half, other in zip(train[2], validation[2], strict=True):
        assert not np.array_equal(np.asarray(half), np.asarray(other))
    scans = {ink.tobytes() for ink in train[0]}
    assert np.mean([ink.tobytes() in scans for ink in validation[0]]) < 0.01


def test_classification_takes_turns():
    source = DigitsClassification("train", 20, 48, 0)
    assert [example.target for example in source] == [*range(10)] * 2
    assert source[0].image.size == (48, 48)


def test_spaces_and_counts():
    segmentation = load_digit_images("segmentation", 7, 3, 64, 0)
    assert (len(segmentation.train), len(segmentation.validation)) == (7, 3)
    assert segmentation.label_space.names[:2] == ("background", "digit 0")
    assert segmentation.label_space.num_labels == 11
    assert load_digit_images("classification", 7, 3, 64, 0).label_space.num_labels == 10
    with pytest.raises(IndexError):
        segmentation.train[7]
