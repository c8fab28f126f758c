"""Transforms: image and mask in step, padding, the 75 % rule, sizes, and normalising."""

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.data.colours import colour_planes, photometric_distortion
from lrsegformer.data.transforms import (
    ClassificationTrainTransform,
    Normalise,
    SegmentationTrainTransform,
    fitted_size,
    nearest_crop,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def blocks(width, height, block=8):
    """An image whose grey value is twice its label, in blocks."""
    rows, columns = np.arange(height) // block, np.arange(width) // block
    labels = ((rows[:, None] * 7 + columns * 3) % 100).astype(np.uint8)
    return Image.fromarray(np.repeat(labels[..., None] * 2, 3, axis=2)), labels


@pytest.fixture
def no_colours(monkeypatch):
    monkeypatch.setattr("lrsegformer.data.transforms.photometric_distortion", lambda planes, rng: planes)


@pytest.mark.parametrize("seed", range(6))
def test_image_and_mask_stay_in_step(no_colours, seed):
    image, labels = blocks(150, 100)
    transform = SegmentationTrainTransform(64, *PLAIN, base_size=100)
    item = transform(image, labels, np.random.default_rng(seed))
    grey, mask = item["pixel_values"][0] * 255, item["labels"]
    assert item["pixel_values"].shape == (3, 64, 64) and item["pixel_values"].dtype == torch.float32
    assert mask.shape == (64, 64) and mask.dtype == torch.uint8
    valid = mask != 255
    # Only pixels at the edges of blocks mix; a mask shifted or flipped on its own would disagree nearly everywhere.
    agreeing = ((grey - 2.0 * mask).abs() < 1.5)[valid].float().mean()
    assert agreeing > 0.5


def test_a_crop_equals_the_crop_of_the_whole_resized_image(no_colours):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8))
    labels = np.random.default_rng(1).integers(0, 150, (120, 160)).astype(np.uint8)
    transform = SegmentationTrainTransform(64, *PLAIN, scale_range=(1.3, 1.3), base_size=100, flip_probability=0)
    rng = np.random.default_rng(3)
    item = transform(image, labels, np.random.default_rng(3))
    width, height = fitted_size(image.size, 100 * rng.uniform(1.3, 1.3))
    left, top = rng.integers(width - 64 + 1), rng.integers(height - 64 + 1)
    whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[top : top + 64, left : left + 64]
    mask = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    assert np.abs(item["pixel_values"].numpy().transpose(1, 2, 0) * 255 - whole).max() <= 1.01
    # Pillow adds up its steps, so it may choose the other neighbour where a centre falls between two labels.
    assert (item["labels"].numpy() != mask[top : top + 64, left : left + 64]).mean() < 0.05


@pytest.mark.parametrize("label_type", [np.uint8, np.int16])
@pytest.mark.parametrize("seed", range(12))
def test_a_training_item_equals_its_recipe_step_by_step(seed, label_type):
    """The recipe written out with whole arrays and float64, drawing from the same generator in the same order."""
    image, labels = blocks(96, 72, block=4)
    labels = labels.astype(label_type)
    labels[:9] = void = 255 if label_type is np.uint8 else -100
    item = SegmentationTrainTransform(64, MEAN, STD, ignore_index=void)(image, labels, np.random.default_rng(seed))

    rng = np.random.default_rng(seed)
    width, height = fitted_size(image.size, 64 * rng.uniform(0.5, 2.0))
    across, down = min(width, 64), min(height, 64)
    for _ in range(11):
        left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
        rows = [(2 * row + 1) * 72 // (2 * height) for row in range(top, top + down)]
        columns = [(2 * column + 1) * 96 // (2 * width) for column in range(left, left + across)]
        mask = labels[np.ix_(rows, columns)]
        counts = [(mask == label).sum() for label in np.unique(labels) if label != void]
        if max(counts) < 0.75 * sum(counts):
            break
    box = (left * 96 / width, top * 72 / height, (left + across) * 96 / width, (top + down) * 72 / height)
    image = image.resize((across, down), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image, mask = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
    pixels = photometric_distortion(colour_planes(image), rng).transpose(1, 2, 0)
    expected = np.zeros((64, 64, 3))
    expected[:down, :across] = (pixels / 255 - MEAN) / STD
    expected_labels = np.full((64, 64), void)
    expected_labels[:down, :across] = mask
    assert item["pixel_values"].is_contiguous() and item["labels"].is_contiguous()
    assert item["labels"].numpy().dtype == label_type
    assert np.array_equal(item["labels"].numpy(), expected_labels)
    np.testing.assert_allclose(item["pixel_values"].numpy(), expected.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_small_images_are_padded_with_the_mean_colour_and_255():
    image, labels = blocks(40, 30)
    transform = SegmentationTrainTransform(64, MEAN, STD, scale_range=(1.0, 1.0), base_size=30)
    item = transform(image, labels, np.random.default_rng(0))
    assert (item["labels"][30:] == 255).all() and (item["labels"][:, 40:] == 255).all()
    assert (item["labels"][:30, :40] != 255).all()
    assert (item["pixel_values"][:, 30:] == 0).all()


def test_int16_masks_are_padded_with_their_own_ignore_index():
    image, labels = blocks(40, 30)
    transform = SegmentationTrainTransform(64, MEAN, STD, (1.0, 1.0), base_size=30, ignore_index=-100)
    item = transform(image, labels.astype(np.int16) + 255, np.random.default_rng(0))
    assert item["labels"].dtype == torch.int16
    assert (item["labels"][30:] == -100).all()


def test_crops_of_one_class_are_drawn_again():
    labels = np.zeros((64, 640), dtype=np.uint8)
    labels[:, 600:] = np.arange(40) % 5  # only the right end is varied
    image = Image.new("RGB", (640, 64))
    transform = SegmentationTrainTransform(64, *PLAIN, scale_range=(1.0, 1.0), flip_probability=0)
    varied = sum(
        len(transform(image, labels, np.random.default_rng(seed))["labels"].unique()) > 1 for seed in range(60)
    )
    # A single draw meets the varied end in about 10 % of the cases, eleven draws in about half.
    assert varied > 18


def test_void_does_not_count_as_a_class_in_the_75_percent_rule():
    transform = SegmentationTrainTransform(64, *PLAIN)
    labels = np.full((64, 64), 255, dtype=np.uint8)
    assert not transform._is_varied(labels)
    labels[:8] = 1
    assert not transform._is_varied(labels)
    labels[:3] = 2
    assert transform._is_varied(labels)


def test_flip_probability_zero_and_one(no_colours):
    image, labels = blocks(64, 64)
    items = [
        SegmentationTrainTransform(64, *PLAIN, (1.0, 1.0), flip_probability=probability)(
            image, labels, np.random.default_rng(0)
        )["labels"]
        for probability in (0.0, 1.0)
    ]
    assert torch.equal(items[0], items[1].flip(1))
    assert torch.equal(items[0], torch.from_numpy(labels))


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [((480, 360), 512, (683, 512)), ((4000, 500), 512, (2048, 256)), ((9, 4), 2, (5, 2))],
)
def test_fitted_size(size, short, expected):
    assert fitted_size(size, short) == expected


def test_nearest_crop_is_pillows_nearest():
    labels = np.random.default_rng(0).integers(0, 200, (37, 53)).astype(np.uint8)
    for size in ((53, 37), (90, 111), (20, 31), (352, 256)):
        whole = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        assert np.array_equal(nearest_crop(labels, size, (3, 5, 10, 12)), whole[5:17, 3:13])


def test_normalising_equals_its_definition():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    expected = (np.asarray(image) / 255 - MEAN) / STD
    assert np.abs(Normalise(MEAN, STD)(image).transpose(1, 2, 0) - expected).max() < 1e-5


def test_normalising_equals_the_image_processor():
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    processor = SegformerImageProcessorPil(do_resize=False, image_mean=MEAN, image_std=STD)
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(Normalise(MEAN, STD)(image) - theirs).max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (5, 900), (900, 5), (1, 1)])
def test_classification_sizes(size):
    image = Image.new("RGB", size, (10, 200, 30))
    transform = ClassificationTrainTransform(48, MEAN, STD)
    for seed in range(5):
        item = transform(image, 3, np.random.default_rng(seed))
        assert item["pixel_values"].shape == (3, 48, 48)
        assert item["labels"] == 3


@pytest.mark.parametrize("make", [SegmentationTrainTransform, ClassificationTrainTransform])
def test_all_randomness_comes_from_the_generator(make):
    image, labels = blocks(150, 100)
    target = labels if make is SegmentationTrainTransform else 1

    def pixels(seed):
        return make(64, MEAN, STD)(image, target, np.random.default_rng(seed))["pixel_values"]

    assert torch.equal(pixels(1), pixels(1))
    assert not torch.equal(pixels(1), pixels(2))


def test_augmented_camvid_masks_hold_only_known_values(real_data):
    image = Image.open(real_data / "camvid" / "train" / "0001TP_006690.png")
    raw = np.asarray(Image.open(real_data / "camvid" / "trainannot" / "0001TP_006690.png"))
    labels = np.where(raw == 11, 255, raw).astype(np.uint8)
    for seed in range(10):
        item = SegmentationTrainTransform(256, MEAN, STD)(image, labels, np.random.default_rng(seed))
        assert set(item["labels"].unique().tolist()) <= set(np.unique(labels).tolist()) | {255}
