"""Labels that would vanish: said with counts before training, or refused; and silence where nothing is wrong."""

import logging

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.classes import survey
from lrsegformer.data.classes.survey import even_sample, value_counts
from lrsegformer.errors import InputError

STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def opened(tmp_path, caplog):
    """Opens folders of these masks; gives the warnings."""

    def open_masks(training, validation=None, **options):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for split, masks in (("training", training), ("validation", training if validation is None else validation)):
            for index, values in enumerate(masks):
                mask = Image.fromarray(np.array(values, dtype=np.uint8))
                for kind, image in (("images", mask.convert("RGB")), ("annotations", mask)):
                    (root / kind / split).mkdir(parents=True, exist_ok=True)
                    image.save(root / kind / split / f"{index}.png")
        caplog.clear()
        with caplog.at_level(logging.INFO, "lrsegformer"):
            load_data(DataArguments(dataset=str(root), **options), "segmentation", 0, *STATISTICS)
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    return open_masks


def test_nothing_is_said_where_nothing_is_wrong(opened):
    assert opened([[[0, 1, 2, 255]] * 4, [[0, 1, 2, 2]] * 4], class_names="a,b,c") == []
    assert opened([[[0, 0, 255, 255]]], class_names="lesion") == []


def test_masks_of_0_and_255_with_two_names_are_refused(opened):
    with pytest.raises(
        InputError, match=r"only 'background' has pixels \(void: 255 \(2 pixels\)\).*--mask_values 0,255"
    ):
        opened([[[0, 0, 255]], [[0, 255]]], class_names="background,lesion")
    assert opened([[[0, 0, 255]], [[0, 255]]], class_names="background,lesion", mask_values="0,255") == []


def test_a_class_without_pixels_is_said_with_its_name(opened):
    training, validation = opened([[[0, 1]], [[0, 1]]], class_names="sky,road,car")
    assert "1 of the 3 classes never occur in the 2 training masks (car)" in training
    assert "in the 2 validation masks (car)" in validation
    (only_validation,) = opened([[[0, 1, 2]], [[0, 1, 2]]], [[[0, 1]]] * 2, class_names="sky,road,car")
    assert "validation masks (car)" in only_validation


def test_a_class_that_validation_lacks_beside_one_is_a_warning(opened):
    (line,) = opened([[[0, 1]]], [[[0, 255, 0, 0, 0, 0]]], class_names="background,lesion")
    assert "1 of the 2 classes never occur in the 1 validation masks (lesion) (void: 255 (1 pixels))" in line
    assert "always answering the other one scores 1.0" in line


def test_a_large_void_share_is_said_with_its_values(opened):
    lines = opened([[[0, 1, 9, 9]], [[0, 1, 255, 0]]], class_names="a,b", ignore_label=9)
    assert "38 % of the pixels of the 2 training masks are void (void: 9 (2 pixels), 255 (1 pixels))" in lines[0]
    assert len(lines) == 2 and "--mask_values" in lines[0]


def test_no_pixel_at_all_and_one_class_alone_are_refused(opened):
    with pytest.raises(InputError, match="no pixel belongs to a class"):
        opened([[[255, 255]]], class_names="a,b")
    with pytest.raises(InputError, match="only 'a' has pixels"):
        opened([[[0, 0]]], class_names="a,b")


def test_a_small_subset_is_a_warning_not_an_error(opened):
    (line,) = opened([[[0, 0]], [[1, 1]]], [[[0, 1]]], class_names="a,b", max_train_samples=1)
    assert "1 of the 2 classes" in line and "the subset is small" in line
    (line,) = opened([[[0, 1]]] * 2, [[[0, 0]]] * 2 + [[[0, 1]]], class_names="a,b", max_eval_samples=2)
    assert "(b)" in line and "the subset is small" in line


def test_a_value_outside_is_found_before_training(opened):
    with pytest.raises(InputError, match=r"1\.png: mask value 7 is outside the 2 classes .*--mask_values"):
        opened([[[0, 1]], [[0, 7]]], class_names="a,b")


def test_an_ignore_label_that_never_occurs(opened):
    (line,) = opened([[[0, 1]]], class_names="a,b", ignore_label=11)
    assert "--ignore_label 11 occurs in no mask" in line


def test_large_splits_are_sampled_and_the_size_is_said(opened, monkeypatch, caplog):
    monkeypatch.setattr(survey, "SAMPLE", 3)
    assert even_sample(3).tolist() == [0, 1, 2] and even_sample(7).tolist() == [0, 2, 4]
    assert even_sample(7, [9, 8, 7, 6]).tolist() == [9, 8, 7]
    # One rare class of three is easily missed; two of three are not.
    assert opened([[[0, 1]]] * 6, class_names="a,b,c") == []
    assert "in the 3 of 6 (evenly spaced) training masks (c)" in caplog.text
    assert "2 of the 4 classes" in opened([[[0, 1]]] * 6, class_names="a,b,c,d")[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_counts(dtype):
    assert value_counts(np.array([[3, 3], [0, 255]], dtype=dtype)) == {0: 1, 3: 2, 255: 1}
    mask = np.random.default_rng(0).integers(0, 9, (30, 40)).repeat(3, axis=1).astype(dtype) * 28
    values, numbers = np.unique(mask, return_counts=True)
    assert value_counts(mask) == dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_classes_without_images(tmp_path, caplog):
    for split, names in (("train", "abc"), ("val", "ab")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    load_data(DataArguments(dataset=str(tmp_path)), "classification", 0, *STATISTICS)
    assert "1 of the 3 classes never occur in the 2 validation images (c)" in caplog.text
    assert "training images" not in caplog.text


def test_camvid_and_ade20k_say_nothing_without_reason(real_data, caplog):
    camvid = real_data / "camvid"
    arguments = DataArguments(
        train_images=str(camvid / "train"),
        train_masks=str(camvid / "trainannot"),
        validation_images=str(camvid / "val"),
        validation_masks=str(camvid / "valannot"),
        class_names="sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist",
        ignore_label=11,
    )
    load_data(arguments, "segmentation", 0, *STATISTICS)
    load_data(DataArguments(dataset="digits"), "segmentation", 0, *STATISTICS)
    assert caplog.records == []
    # Six training images hold a part of the 150 classes.
    load_data(DataArguments(dataset=str(real_data / "ade20k_150_pairs")), "segmentation", 0, *STATISTICS)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("of the 150 classes never occur" in line for line in lines)
