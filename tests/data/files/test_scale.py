"""One scale for the deep images of a data set: found once and said, saved with the model, or given."""

import logging

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data import DataArguments, load_data
from lrsegformer.errors import InputError

STATISTICS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.fixture
def opened(tmp_path, caplog):
    """Opens class folders of one image a class, with these pixels; gives the splits and the warnings."""

    def open_images(*pixels, **options):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for split in ("train", "val"):
            for index, values in enumerate(pixels):
                folder = root / split / f"class_{index}"
                folder.mkdir(parents=True)
                Image.fromarray(values).resize((32, 32), Image.Resampling.NEAREST).save(folder / "1.tif")
        caplog.clear()
        with caplog.at_level(logging.INFO, "lrsegformer"):
            splits = load_data(
                DataArguments(dataset=str(root), image_size=32, **options), "classification", 0, *STATISTICS
            )
        return splits, [record.getMessage() for record in caplog.records]

    return open_images


def grey(dtype, *values):
    return np.array([values], dtype=dtype)


RAMP = np.arange(32 * 32).reshape(32, 32)


def test_12_bits_are_found_said_and_shared(opened):
    bright, dark = (RAMP * 4).astype(np.uint16), (RAMP // 8).astype(np.uint16)
    splits, (line,) = opened(bright, dark)
    assert "values from 0 to 4092" in line and "--image_range 0,4095" in line
    assert splits.processor.image_range == [0.0, 4095.0]
    for split in (splits.train, splits.validation):
        assert np.asarray(split.source[1].image).max() == 8  # 127 of 4095, not brightened
        assert np.asarray(split.source[0].image).max() == 255


def test_a_given_range_is_taken(opened):
    splits, lines = opened((RAMP * 4).astype(np.uint16), (RAMP * 2).astype(np.uint16), image_range="0,8190")
    assert lines == [] and splits.processor.image_range == [0.0, 8190.0]
    assert np.asarray(splits.train.source[0].image).max() == 127


def test_8_bits_have_no_range(opened):
    splits, lines = opened(np.full((4, 4), 200, dtype=np.uint8), np.full((4, 4), 9, dtype=np.uint8))
    assert lines == [] and not hasattr(splits.processor, "image_range")
    assert np.asarray(splits.train.source[0].image).max() == 200
    # 8-bit values in 16-bit files stay as they are.
    splits, _ = opened(np.arange(256, dtype=np.uint16).reshape(16, 16), np.full((4, 4), 9, dtype=np.uint16))
    assert splits.processor.image_range == [0.0, 255.0]


@pytest.mark.parametrize(("top", "expected"), [(1.0, [0.0, 1.0]), (1000.0, [0.0, 1000.0])])
def test_floating_point(opened, top, expected):
    ramp = (RAMP / RAMP.max() * top).astype(np.float32)
    splits, lines = opened(ramp, ramp / 2)
    assert splits.processor.image_range == expected and "more than 8 bits" in lines[0]


def test_a_split_of_deep_images_beside_one_of_8_bits(opened, tmp_path, caplog):
    eight = (RAMP // 8).astype(np.uint8)
    opened(eight, eight)
    root = next(tmp_path.iterdir())
    Image.fromarray((RAMP * 4).astype(np.uint16)).save(root / "val" / "class_1" / "1.tif")
    splits = load_data(DataArguments(dataset=str(root)), "classification", 0, *STATISTICS)
    assert splits.processor.image_range == [0.0, 4095.0]


def test_few_levels_are_said(opened):
    _, lines = opened(grey(np.uint16, 0, 10, 4000), grey(np.uint16, 3, 7))
    assert "the images use 3 of 256 levels" in lines[1] and "--image_range 0,4000" in lines[1]
    _, lines = opened((RAMP // 16).astype(np.uint16), (RAMP // 32).astype(np.uint16), image_range="0,65535")
    assert "the images use 1 of 256 levels" in lines[0] and "--image_range 0,63" in lines[0]


def test_large_files_are_refused_at_once_or_allowed(opened, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    eight = (RAMP // 8).astype(np.uint8)
    with pytest.raises(InputError, match="32x32 are 1024 pixels, and the limit is 200.*--max_image_pixels 1024"):
        opened(eight, eight)
    splits, _ = opened(eight, eight, max_image_pixels=1024)
    assert splits.train.source[0].image.size == (32, 32)


def test_values_that_are_not_finite(opened):
    with pytest.raises(InputError, match=r"1\.tif: holds pixels that are not finite"):
        opened(grey(np.float32, 0, np.inf), grey(np.float32, 0, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_range": "4095"}, "--image_range 4095"),
        ({"image_range": "5,5"}, "--image_range 5,5"),
        ({"image_range": "0,inf"}, "--image_range 0,inf"),
        ({"image_bands": "1,2"}, "--image_bands 1,2"),
        ({"image_bands": "0"}, "--image_bands 0"),
        ({"image_bands": "red"}, "--image_bands red"),
        ({"image_page": 0}, "--image_page is 0"),
        ({"max_image_pixels": 0}, "--max_image_pixels is 0"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(InputError, match=said):
        DataArguments(**options)
