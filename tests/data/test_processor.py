"""The saved image processor is the definition of an input: what it gives, and that evaluation gives the same."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ConvNextImageProcessorPil, SegformerImageProcessorPil

from lrsegformer.data.arguments import SMALLEST_INPUT
from lrsegformer.data.processor import (
    build_processor,
    channel_statistics,
    input_definition,
    input_size,
    load_processor,
    without_normalising,
)
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(500, 375), (375, 500), (64, 64), (20, 30), (33, 47), (97, 96), (900, 20), (5, 300), (1, 1)]


def noise(size):
    width, height = size
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make(task, eval_size=96):
    return build_processor(task, eval_size, MEAN, STD)


def reloaded(processor, folder):
    """As plain transformers loads it."""
    processor.save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_evaluation_gives_what_the_saved_file_gives(tmp_path, task, size):
    image = noise(size)
    target = np.zeros(size[::-1], dtype=np.uint8) if task == "segmentation" else 3
    item = EvaluationTransform(make(task))(image, target, np.random.default_rng(0))
    theirs = reloaded(make(task), tmp_path)(images=image, return_tensors="pt")["pixel_values"][0]
    assert item["pixel_values"].dtype == torch.float32
    assert torch.equal(item["pixel_values"], theirs)


@pytest.mark.parametrize("size", SIZES)
def test_classification_resizes_the_short_side_and_cuts_the_centre(size):
    image = noise(size)
    # 96 * 256 / 224 is 109.7.
    factor = 110 / min(size)
    width, height = (110 if side == min(size) else int(side * factor) for side in size)
    left, top = (width - 96) // 2, (height - 96) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 96, top + 96))
    expected = ((np.asarray(resized) / 255 - MEAN) / STD).transpose(2, 0, 1)
    pixels = make("classification")(images=image, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, 96, 96)
    assert np.abs(pixels - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "expected"),
    # By the short side, or by the long one; 46 rows are no multiple of 32.
    [
        ((500, 375), (128, 96)),
        ((375, 500), (96, 128)),
        ((900, 20), (2048, 46)),
        ((20, 300), (96, 1440)),
        ((96, 120), (96, 120)),
        ((1, 1), (96, 96)),
    ],
)
def test_segmentation_fits_the_image(size, expected):
    image = noise(size)
    pixels = make("segmentation")(images=image, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, *expected[::-1])
    resized = np.asarray(image.resize(expected, Image.Resampling.BILINEAR)) / 255
    assert np.abs(pixels - ((resized - MEAN) / STD).transpose(2, 0, 1)).max() < 1e-5


def test_images_of_all_shapes_and_modes_share_a_classification_batch(tmp_path):
    images = [noise((500, 375)), noise((30, 70)), noise((80, 80)).convert("L"), noise((64, 50)).convert("RGBA")]
    assert reloaded(make("classification"), tmp_path)(images, return_tensors="pt")["pixel_values"].shape == (
        4,
        3,
        96,
        96,
    )


def test_grey_images_become_colour_images(tmp_path):
    grey = noise((50, 40)).convert("L")
    processor = reloaded(make("segmentation"), tmp_path)
    one, other = (
        processor(images=image, return_tensors="pt")["pixel_values"] for image in (grey, grey.convert("RGB"))
    )
    assert one.shape[1] == 3 and torch.equal(one, other)


def test_labels_keep_their_size_or_take_that_of_the_input():
    image, mask = noise((480, 360)), np.random.default_rng(0).integers(0, 9, (360, 480), dtype=np.uint8)
    kept = EvaluationTransform(make("segmentation", 90))(image, mask, np.random.default_rng(0))
    assert np.array_equal(kept["labels"].numpy(), mask)
    resized = EvaluationTransform(make("segmentation", 90), resize_labels=True)(image, mask, np.random.default_rng(0))
    nearest = Image.fromarray(mask).resize((120, 90), Image.Resampling.NEAREST)
    assert np.array_equal(resized["labels"].numpy(), np.asarray(nearest))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9000, 2), "an image of 9000x2 cannot be made an input .*: cut it, or leave it out"),
        ((900, 9), "an image of 900x9 makes an input of 2048x20, and .* no side below 29 pixels: cut the image"),
    ],
)
def test_images_too_long_for_segformer_are_refused(size, message):
    width, height = size
    mask = np.zeros((height, width), dtype=np.uint8)
    with pytest.raises(InputError, match=message):
        EvaluationTransform(make("segmentation", 64))(noise(size), mask, np.random.default_rng(0))


def test_the_smallest_input_is_what_segformer_takes(make_stock):
    model = make_stock()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, SMALLEST_INPUT, 90)).logits.shape[2:] == (8, 23)
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(torch.zeros(1, 3, SMALLEST_INPUT - 1, 90))


def test_workers_can_take_it():
    transform, image = EvaluationTransform(make("classification")), noise((70, 50))
    items = [one(image, 1, np.random.default_rng(0)) for one in (transform, pickle.loads(pickle.dumps(transform)))]
    assert torch.equal(items[0]["pixel_values"], items[1]["pixel_values"])


def test_reduced_labels_are_those_of_the_label_space():
    from lrsegformer.data.labels import LabelSpace

    raw = np.array([[0, 1, 2, 150, 255]], dtype=np.uint8)
    processor = build_processor("segmentation", 32, MEAN, STD, reduce_zero_label=True)
    assert processor.do_reduce_labels
    space = LabelSpace(tuple(f"class {index}" for index in range(150)), reduce_zero_label=True)
    assert np.array_equal(processor.reduce_label(raw.copy()), space.encode_mask(raw, "mask"))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_pixels_from_0_to_1(task):
    image = noise((120, 80))
    plain = without_normalising(make(task))(images=image, return_tensors="np")["pixel_values"][0]
    assert plain.min() >= 0 and 0.9 < plain.max() <= 1
    expected = (plain - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert np.abs(make(task)(images=image, return_tensors="np")["pixel_values"][0] - expected).max() < 1e-5


def test_sizes_in_words():
    assert input_size(make("segmentation", 512)) == "short side 512 (long side at most 2048)"
    assert input_size(make("segmentation", 640)) == "short side 640 (long side at most 2560)"
    assert input_size(make("classification", 224)) == "224x224 in the middle of short side 256"
    assert input_size(SegformerImageProcessorPil(do_center_crop=True, crop_size=64)) == "512x512"
    assert input_size(SegformerImageProcessorPil(do_resize=False)) == "the image's own size"
    assert input_size(ConvNextImageProcessorPil(size={"shortest_edge": 224})) == "short side 224"


def test_definitions_differ_where_pixels_do():
    assert input_definition(make("segmentation", 64)) != input_definition(make("segmentation", 96))
    assert input_definition(make("segmentation")) != input_definition(make("classification"))
    other = build_processor("segmentation", 96, (0.5,) * 3, (0.5,) * 3, reduce_zero_label=True)
    assert input_definition(make("segmentation")) == input_definition(other)


def test_statistics_of_a_checkpoint(tmp_path):
    make("classification").save_pretrained(tmp_path)
    assert channel_statistics(str(tmp_path), None) == (list(MEAN), list(STD))
    without_normalising(make("segmentation")).save_pretrained(tmp_path)
    assert channel_statistics(str(tmp_path), None) == ([0.0] * 3, [1.0] * 3)
    assert channel_statistics(None, None) == (list(MEAN), list(STD))


def test_any_class_of_processor_is_loaded(tmp_path):
    ConvNextImageProcessorPil(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    assert type(load_processor(str(tmp_path))) is ConvNextImageProcessorPil
    with pytest.raises(OSError):
        load_processor(str(tmp_path / "nowhere"))
