"""Corruptions: reproducible, without a trace in the global random state, before the transform."""

import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.dataset import ImageDataset, collate
from lrsegformer.data.digits import load_digit_images
from lrsegformer.data.folders import MaskFolderSource
from lrsegformer.data.loading import load_data
from lrsegformer.data.processor import build_processor
from lrsegformer.data.transforms import EvaluationTransform
from lrsegformer.errors import InputError
from lrsegformer.robustness.shift.corruption_names import (
    COMMON_CORRUPTIONS,
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    corruption_names,
)
from lrsegformer.robustness.shift.corruptions import CorruptedDataset, CorruptedSource, corrupt, image_seed

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")
# The corruptions without a random draw.
FIXED = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
)


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("imagecorruptions", reason="the extra `robustness` is not installed")


@pytest.fixture(scope="module")
def photograph():
    return np.ascontiguousarray(load_sample_image("flower.jpg")[150:214, 250:314])


def digits_dataset(count=4):
    source = load_digit_images("segmentation", 4, count, 64, 0)
    transform = EvaluationTransform(build_processor("segmentation", 64, (0.5,) * 3, (0.25,) * 3))
    return ImageDataset(source.validation, source.label_space, transform, 0)


def test_names_are_those_of_the_package(package):
    assert list(COMMON_CORRUPTIONS) == package.get_corruption_names("common")
    assert list(EXTRA_CORRUPTIONS) == package.get_corruption_names("validation")


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption(package, photograph, name, severity):
    image = photograph.copy()
    np.random.seed(11)
    expected_draws = np.random.random(3)
    np.random.seed(11)
    corrupted = corrupt(image, name, severity, seed=5)
    assert np.array_equal(np.random.random(3), expected_draws)
    assert np.array_equal(image, photograph)
    assert corrupted.dtype == np.uint8 and corrupted.shape == photograph.shape
    assert not np.array_equal(corrupted, photograph)
    np.random.seed(12)
    assert np.array_equal(corrupt(Image.fromarray(image), name, severity, seed=5), corrupted)
    assert np.array_equal(corrupt(image, name, severity, seed=6), corrupted) == (name in FIXED)


@pytest.mark.parametrize("name", NOISE + BLUR)
def test_noise_and_blur_grow_with_the_severity(package, photograph, name):
    weak, strong = (corrupt(photograph, name, severity, 0).astype(float) for severity in (1, 5))
    assert np.abs(strong - photograph).mean() > 1.2 * np.abs(weak - photograph).mean()


def test_severities_and_corruptions_draw_apart(package):
    # Where nothing is clipped, the noise of severity 2 would be 1.5 times that of severity 1 if they shared a draw.
    grey = np.full((64, 64, 3), 128, np.uint8)
    one, two = (corrupt(grey, "gaussian_noise", severity, 0).astype(float) - 128 for severity in (1, 2))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(("height", "width"), [(20, 20), (8, 40), (31, 32), (33, 97), (50, 33)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size(package, photograph, name, height, width):
    image = np.asarray(Image.fromarray(photograph).resize((width, height)))
    corrupted = corrupt(image, name, 3, 1)
    assert corrupted.shape == (height, width, 3) and corrupted.dtype == np.uint8
    assert corrupted.std() > 0


def test_a_draw_without_drops_is_made_again(package):
    # At 32 pixels one draw in forty of spatter has no drop, which the package turns into a black image.
    grey = np.full((32, 32, 3), 128, np.uint8)
    assert min(corrupt(grey, "spatter", 1, seed).mean() for seed in range(200)) > 100


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "frost"])
def test_workers_and_order_do_not_matter(package, name):
    dataset = CorruptedDataset(digits_dataset(), name, 3, seed=7)
    items = [dataset[index]["pixel_values"] for index in (3, 1, 0, 2)]
    alone = torch.stack([items[2], items[1], items[3], items[0]])
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=collate)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), alone)
    chosen = digits_dataset()
    chosen.indices = np.array([2])
    assert torch.equal(CorruptedDataset(chosen, name, 3, seed=7)[0]["pixel_values"], alone[2])
    assert not torch.equal(CorruptedDataset(digits_dataset(), name, 3, seed=8)[0]["pixel_values"], alone[0])


def test_targets_names_and_pickles_stay(package):
    clean = digits_dataset()
    source = pickle.loads(pickle.dumps(CorruptedSource(clean.source, "fog", 2)))
    assert len(source) == len(clean.source)
    assert np.array_equal(source[1].target, clean.source[1].target) and source[1].name == clean.source[1].name
    assert source[1].image.size == clean.source[1].image.size
    assert torch.equal(CorruptedDataset(clean, "fog", 2)[1]["labels"], clean[1]["labels"])


def test_corruption_comes_before_the_transform(package, real_data):
    camvid = real_data / "camvid"
    source = MaskFolderSource(camvid / "val", camvid / "valannot")
    seen = CorruptedSource(source, "pixelate", 5)[0].image
    assert seen.size == source[0].image.size == (480, 360)
    assert np.array_equal(np.asarray(seen), corrupt(source[0].image, "pixelate", 5, image_seed(source[0].name)))


def test_image_seed_ignores_where_the_data_lies():
    assert image_seed("/data/val/n01/x.png", 3) == image_seed("/other/n01/x.png", 3)
    others = [("/data/val/n02/x.png", 3), ("/data/val/n01/y.png", 3), ("/data/val/n01/x.png", 4)]
    assert len({image_seed("/data/val/n01/x.png", 3), *(image_seed(*other) for other in others)}) == 4


def test_real_classification_images(package, real_data):
    arguments = DataArguments(dataset=str(real_data / "tiny_imagenet10"), max_eval_samples=10)
    splits = load_data(arguments, "classification", 0, (0.5,) * 3, (0.25,) * 3)
    for name in ("shot_noise", "elastic_transform", "snow"):
        corrupted = CorruptedDataset(splits.validation, name, 5)
        assert len(corrupted) == 10
        for index in range(10):
            item, clean = corrupted[index], splits.validation[index]
            assert item["labels"] == clean["labels"] and not torch.equal(item["pixel_values"], clean["pixel_values"])


def test_words_for_sets_of_corruptions():
    assert corruption_names(["common"]) == COMMON_CORRUPTIONS and len(COMMON_CORRUPTIONS) == 15
    assert corruption_names(["fog", "all", "fog"]) == ("fog", *(name for name in CORRUPTIONS if name != "fog"))
    assert corruption_names(["extra"]) == EXTRA_CORRUPTIONS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corruption_names(["rain"]), "corruption 'rain' is unknown: choose common"),
        (lambda: corrupt(np.zeros((64, 64, 3), np.uint8), "rain", 1, 0), "corruption 'rain' is unknown"),
        (lambda: corrupt(np.zeros((64, 64, 3), np.uint8), "fog", 6, 0), "severity 6 of fog"),
        (lambda: corrupt(np.zeros((64, 64, 3), np.uint8), "fog", 1, -1), "seed -1 of fog"),
        (lambda: corrupt(np.zeros((64, 64, 3)), "fog", 1, 0), "type float64 and shape"),
        (lambda: corrupt(np.zeros((64, 64), np.uint8), "fog", 1, 0), r"shape \(64, 64\)"),
        (lambda: corrupt(Image.new("L", (64, 64)), "fog", 1, 0), "mode L"),
        (lambda: CorruptedDataset(digits_dataset(), "fog", 0), "severity 0 of fog"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_without_the_package_the_message_names_the_extra(monkeypatch, photograph):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(InputError, match=r"pip install lrsegformer\[robustness\]"):
        corrupt(photograph, "fog", 1, 0)
