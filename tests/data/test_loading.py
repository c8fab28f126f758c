"""From arguments to data sets: defaults, subsets, and where the data is looked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from lrsegformer.data import DataArguments, load_data
from lrsegformer.data.dataset import collate
from lrsegformer.errors import InputError

STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def class_folders(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            for index in range(10):
                file = tmp_path / split / name / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
    return tmp_path


def test_digits_defaults():
    data = load_data(DataArguments(dataset="digits"), "segmentation", 0, *STATISTICS)
    assert (len(data.train), len(data.validation)) == (2000, 200)
    assert (data.image_size, data.eval_size, data.dataset_name, data.hub_id) == (128, 128, "digits", None)
    assert data.train.transform.flip_probability == 0
    batch = collate([data.train[index] for index in range(4)])
    assert batch["pixel_values"].shape == (4, 3, 128, 128)
    assert batch["labels"].max() <= 255


def test_digits_counts_and_sizes_are_options():
    arguments = DataArguments(dataset="digits", max_train_samples=5, max_eval_samples=3, image_size=64)
    for task in ("segmentation", "classification"):
        data = load_data(arguments, task, 0, *STATISTICS)
        assert (len(data.train), len(data.validation)) == (5, 3)
        assert data.train[0]["pixel_values"].shape == (3, 64, 64)


def test_the_seed_changes_the_data():
    def pixels(seed):
        data = load_data(DataArguments(dataset="digits"), "classification", seed, *STATISTICS)
        return data.validation[0]["pixel_values"]

    assert torch.equal(pixels(0), pixels(0))
    assert not torch.equal(pixels(0), pixels(1))


def test_subsets(class_folders):
    arguments = DataArguments(dataset=str(class_folders), max_train_samples=6, max_eval_samples=4, image_size=32)
    data = load_data(arguments, "classification", 0, *STATISTICS)
    again = load_data(arguments, "classification", 0, *STATISTICS)
    other = load_data(arguments, "classification", 1, *STATISTICS)
    assert np.array_equal(data.train.indices, again.train.indices)
    assert not np.array_equal(data.train.indices, other.train.indices)
    assert len(set(data.train.indices.tolist())) == 6
    assert data.validation.indices.tolist() == [0, 5, 10, 15]
    more = DataArguments(dataset=str(class_folders), max_train_samples=999, max_eval_samples=999)
    data = load_data(more, "classification", 0, *STATISTICS)
    assert (len(data.train), len(data.validation)) == (20, 20)


def test_default_sizes_and_crop_area(class_folders):
    data = load_data(DataArguments(dataset=str(class_folders)), "classification", 0, *STATISTICS)
    assert (data.image_size, data.eval_size, data.train.transform.crop_area_min) == (224, 224, 0.08)


@pytest.mark.parametrize("dataset", ["./nowhere", "/no/where", "~/no-such-folder", "a/b/c"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(dataset):
    with pytest.raises(InputError, match="no such folder"):
        load_data(DataArguments(dataset=dataset), "segmentation", 0, *STATISTICS)


def test_unknown_task_and_masks_for_classification():
    with pytest.raises(InputError, match="task 'detection' is unknown"):
        load_data(DataArguments(dataset="digits"), "detection", 0, *STATISTICS)
    folders = {name: "x" for name in ("train_images", "train_masks", "validation_images", "validation_masks")}
    with pytest.raises(InputError, match="class folders"):
        load_data(DataArguments(**folders), "classification", 0, *STATISTICS)


def test_camvid_crops_and_whole_frames(real_data):
    camvid = real_data / "camvid"
    arguments = DataArguments(
        train_images=str(camvid / "train"),
        train_masks=str(camvid / "trainannot"),
        validation_images=str(camvid / "val"),
        validation_masks=str(camvid / "valannot"),
        class_names="sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist",
        ignore_label=11,
        image_size=256,
        eval_size=360,
    )
    data = load_data(arguments, "segmentation", 0, *STATISTICS)
    assert data.train[0]["pixel_values"].shape == (3, 256, 256)
    assert data.train.transform.base_size == 360
    batch = collate([data.validation[0], data.validation[1]])
    assert batch["pixel_values"].shape == (2, 3, 360, 480)
    assert batch["labels"].shape == (2, 360, 480)
    assert set(batch["labels"].unique().tolist()) <= {*range(11), 255}


def test_ade20k_scored_resized(real_data):
    arguments = DataArguments(dataset=str(real_data / "ade20k_150_pairs"), image_size=128, score_at="resized")
    data = load_data(arguments, "segmentation", 0, *STATISTICS)
    item = data.validation[0]
    assert item["labels"].shape == item["pixel_values"].shape[1:]
    assert data.label_space.num_labels == 150
